/* Greedy generation with the C API: generate MODEL PROMPT [MAX_TOKENS]
 *
 *   cc generate.c -lqwen35cpp -o generate && ./generate model.gguf "The capital of France is"
 */
#include <qwen35.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Leaves main() with a message when a call fails. */
#define TRY(call)                                             \
  do {                                                        \
    if ((call) != QWEN35_OK) {                                \
      fprintf(stderr, "generate: %s\n", qwen35_last_error()); \
      goto cleanup;                                           \
    }                                                         \
  } while (0)

int main(int argc, char **argv) {
  qwen35_model *model = NULL;
  qwen35_session *session = NULL;
  qwen35_sampler *sampler = NULL;
  qwen35_stream *stream = NULL;
  int32_t *tokens = NULL;
  int exit_code = EXIT_FAILURE;

  if (argc < 3) {
    fprintf(stderr, "usage: %s MODEL PROMPT [MAX_TOKENS]\n", argv[0]);
    return 2;
  }
  const char *prompt = argv[2];
  const long max_tokens = argc > 3 ? strtol(argv[3], NULL, 10) : 64;

  TRY(qwen35_model_open(argv[1], NULL, &model));
  TRY(qwen35_session_create(model, NULL, &session));

  qwen35_sampling_params sampling;
  sampling.struct_size = sizeof sampling;
  qwen35_sampling_defaults(&sampling);
  sampling.temperature = 0;
  TRY(qwen35_sampler_create(model, &sampling, &sampler));
  TRY(qwen35_stream_create(model, NULL, NULL, 0, 0, &stream));

  /* The first call counts the tokens, the second one writes them. */
  size_t n_tokens = 0;
  TRY(qwen35_tokenize(model, prompt, strlen(prompt), 0, NULL, 0, &n_tokens));
  tokens = malloc((n_tokens + 1) * sizeof *tokens);
  if (tokens == NULL) {
    fprintf(stderr, "generate: out of memory\n");
    goto cleanup;
  }
  TRY(qwen35_tokenize(model, prompt, strlen(prompt), 0, tokens, n_tokens, &n_tokens));
  TRY(qwen35_session_eval(session, tokens, n_tokens, NULL, NULL, NULL));

  qwen35_model_info info;
  TRY(qwen35_model_get_info(model, &info));
  const char *text = NULL;
  size_t length = 0;
  for (long i = 0; i < max_tokens; i++) {
    qwen35_sample sample;
    int32_t stopped = -1;
    TRY(qwen35_session_sample(session, sampler, &sample));
    if (sample.token == info.eos_token || sample.token == info.pad_token) break;
    TRY(qwen35_stream_push(stream, sample.token, &text, &length, &stopped));
    fwrite(text, 1, length, stdout);
    fflush(stdout);
    TRY(qwen35_session_eval(session, &sample.token, 1, NULL, NULL, NULL));
  }
  TRY(qwen35_stream_finish(stream, &text, &length));
  fwrite(text, 1, length, stdout);
  fputc('\n', stdout);
  exit_code = EXIT_SUCCESS;

cleanup:
  free(tokens);
  qwen35_stream_close(stream);
  qwen35_sampler_close(sampler);
  qwen35_session_close(session);
  qwen35_model_close(model);
  return exit_code;
}
