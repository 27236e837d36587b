/* qwen35.h - the public C API of qwen35cpp.
 *
 * The engine opens GGUF files of architecture `qwen35` (the Qwen 3.5 dense family), turns text
 * into token ids and evaluates the model. This header is plain C99 and the whole contract.
 *
 * Conventions
 *   - Every call that can fail returns a qwen35_status. On failure qwen35_last_error() holds one
 *     sentence for this thread; out-parameters are left untouched unless stated, and the objects
 *     can be used on: the same call may succeed later, for example when there is memory again.
 *   - The library never prints, aborts or exits.
 *   - A qwen35_model or qwen35_gguf is immutable after opening and may be used by any number of
 *     threads; evaluations of one model's sessions take turns, batch by batch, and share the
 *     reading of the weights when several decode at the same time. A qwen35_session,
 *     qwen35_sampler or qwen35_stream belongs to one thread at a time; only
 *     qwen35_session_cancel() may be called from another one.
 *   - Parameter structs begin with `struct_size`; fill them with their _defaults() function.
 *   - Strings are UTF-8 and need not be valid; lengths are in bytes.
 *   - Pointers may be NULL only where stated: other calls refuse it with ERROR_ARGUMENT, those
 *     without a status ignore it or give 0 or NULL. Every _close() takes NULL.
 */
#ifndef QWEN35_H
#define QWEN35_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#if defined(QWEN35_BUILD)
#define QWEN35_API __declspec(dllexport)
#else
#define QWEN35_API __declspec(dllimport)
#endif
#else
#define QWEN35_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---- status ------------------------------------------------------------------------------- */

typedef int32_t qwen35_status;

enum {
  QWEN35_OK = 0,
  QWEN35_ERROR_ARGUMENT = 1, /* the caller passed something out of range */
  QWEN35_ERROR_IO = 2,       /* the operating system refused to open, read or write */
  QWEN35_ERROR_MODEL = 3,    /* the file is not a valid model; names key, offset, expected, found */
  QWEN35_ERROR_UNSUPPORTED = 4, /* valid, but outside what this engine runs */
  QWEN35_ERROR_MEMORY = 5,      /* not enough memory; names need */
  QWEN35_ERROR_CONTEXT = 6,     /* more tokens than the session's context */
  QWEN35_ERROR_CANCELLED = 7,   /* qwen35_session_cancel() was called */
  QWEN35_ERROR_CPU = 8,         /* this CPU, or the tier asked for, cannot run the engine */
  QWEN35_ERROR_INTERNAL = 9     /* a bug in the engine */
};

/* Message of this thread's last call when it failed, "" when it succeeded. Valid until its next
 * call. */
QWEN35_API const char *qwen35_last_error(void);

/* Semantic version of the library, e.g. "0.1.0". */
QWEN35_API const char *qwen35_version(void);

/* What the CPU offers and what is used, one line of `key=value` pairs, e.g.
 * "isa=avx512 features=avx2,fma,f16c,avx512,vnni,bf16 cores=2". The environment variable QWEN35_ISA
 * (scalar, avx2, avx_vnni, avx512, amx, neon, neon_dotprod, neon_i8mm) limits the tier; fails with
 * ERROR_CPU when it names an unknown or an unavailable one. `text` receives at most `capacity`
 * bytes including the final NUL. */
QWEN35_API qwen35_status qwen35_system_info(char *text, size_t capacity);

/* Limits of this machine, for judging speeds. */
typedef struct qwen35_machine {
  int32_t n_threads;
  double read_bytes_per_second; /* of memory, by all threads together */
  double int8_ops_per_second;   /* of the tier in use; a multiply-accumulate counts as two */
} qwen35_machine;

/* Measures for about half a second, using 256 MiB. n_threads 0: as many as a model would use. */
QWEN35_API qwen35_status qwen35_measure(int32_t n_threads, qwen35_machine *out);

/* ---- model -------------------------------------------------------------------------------- */

typedef struct qwen35_model qwen35_model;

typedef struct qwen35_model_params {
  uint32_t struct_size;
  int32_t n_threads;  /* 0: one per physical core; no more than there are CPUs work at a time */
  int32_t vocab_only; /* nonzero: read the header and tokenizer only, no weights */
  /* 0: the weights are read into private memory, and the file may then change or disappear.
   * Nonzero: they are mapped. The file must then stay as it is while the model is open: where it is
   * cut short, the system ends the process with SIGBUS when a weight is read. */
  int32_t use_mmap;
  /* 0: rotary positions as the file says. 1 to 1024: YaRN (arXiv 2309.00071) stretches the context
   * that the model was trained for by this factor; short texts lose a little precision. */
  float rope_factor;
} qwen35_model_params;

/* Shape of the opened model. Names follow the Qwen 3.5 configuration. */
typedef struct qwen35_model_info {
  uint32_t n_layer;     /* trunk layers, without multi-token-prediction layers */
  uint32_t n_mtp_layer; /* 0 when the file carries none */
  uint32_t n_embd;      /* hidden size */
  uint32_t n_ff;        /* SwiGLU inner size */
  uint32_t n_head;      /* query heads */
  uint32_t n_head_kv;
  uint32_t head_dim;
  uint32_t n_rot;        /* rotary dimensions of each head */
  uint32_t n_lin_k_head; /* linear-attention key heads */
  uint32_t n_lin_v_head;
  uint32_t lin_head_dim;
  uint32_t conv_kernel;
  uint32_t full_attention_interval;
  uint32_t n_vocab;
  uint32_t n_ctx_train;
  uint32_t tied_embeddings; /* 1: the output head is the embedding matrix */
  int32_t eos_token;        /* -1 when absent */
  int32_t pad_token;        /* -1 when absent */
  uint64_t n_params;        /* elements of all text tensors */
  uint64_t weight_bytes;    /* bytes of all text tensors as stored */
  uint64_t step_bytes;      /* weight bytes read to decode one token (embedding: one row) */
  uint64_t step_macs;       /* multiply-accumulates of the matrices per decoded token */
  int32_t file_type;        /* general.file_type, -1 when absent */
  int32_t matrix_type;      /* tensor type of most bytes of the layers' matrices */
} qwen35_model_info;

QWEN35_API void qwen35_model_defaults(qwen35_model_params *params);

/* Opens `path`; for a sharded model any of its -0000i-of-0000n.gguf files. params may be NULL.
 * Messages about the file begin with its name. */
QWEN35_API qwen35_status qwen35_model_open(const char *path, const qwen35_model_params *params,
                                           qwen35_model **out);
/* Its sessions must be closed first, and its streams not used any more. */
QWEN35_API void qwen35_model_close(qwen35_model *model);
QWEN35_API qwen35_status qwen35_model_get_info(const qwen35_model *model, qwen35_model_info *out);
/* Threads in use, the caller's included. */
QWEN35_API int32_t qwen35_model_threads(const qwen35_model *model);
/* A string of the file's metadata (e.g. "general.name", "tokenizer.chat_template"), NUL-terminated
 * and owned by the model; NULL when absent or not a string. */
QWEN35_API const char *qwen35_model_string(const qwen35_model *model, const char *key);

/* ---- tokenizer ---------------------------------------------------------------------------- */

enum {
  QWEN35_TOKENIZE_SPECIAL = 1 /* recognise control tokens in the text; off for text from users */
};

enum {
  QWEN35_TOKEN_NORMAL = 1,
  QWEN35_TOKEN_CONTROL = 3,      /* <|im_end|> and the like: never printed */
  QWEN35_TOKEN_USER_DEFINED = 4, /* <think>, <tool_call>: printed as text */
  QWEN35_TOKEN_UNUSED = 5        /* padding rows of the vocabulary, never sampled */
};

/* Writes at most `capacity` ids to `tokens` (NULL allowed when capacity is 0) and the number needed
 * to *n_tokens. Returns QWEN35_OK also when the buffer was too small: compare the two.
 * Ill-formed UTF-8 is replaced by U+FFFD as Python's errors="replace" does. */
QWEN35_API qwen35_status qwen35_tokenize(const qwen35_model *model, const char *text, size_t length,
                                         uint32_t flags, int32_t *tokens, size_t capacity,
                                         size_t *n_tokens);
/* The bytes that `token` stands for: not NUL-terminated, owned by the model, possibly part of a
 * character. *length is 0 for unused tokens. `type` may be NULL. */
QWEN35_API qwen35_status qwen35_token_bytes(const qwen35_model *model, int32_t token,
                                            const char **bytes, size_t *length, int32_t *type);

/* ---- session ------------------------------------------------------------------------------ */

typedef struct qwen35_session qwen35_session;

/* How attention keys and values are stored. Q8_0: 8 bits and a scale per row; half the memory of
 * F16 and nearly twice the speed of its part in long contexts, for a small loss of precision.
 * IQ4_NL: 4 bits of a table of 16 values, a quarter of the memory of F16, for a loss that shows. */
enum {
  QWEN35_KV_AUTO = 0,
  QWEN35_KV_F32 = 1,
  QWEN35_KV_F16 = 2,
  QWEN35_KV_Q8_0 = 3,
  QWEN35_KV_IQ4_NL = 4
};

/* Sources of drafts. MTP: the model's multi-token-prediction layer; ERROR_ARGUMENT when the file
 * has none. LOOKUP: what followed the last tokens before, see qwen35_session_draft_context(). */
enum {
  QWEN35_DRAFT_MTP = 1,
  QWEN35_DRAFT_LOOKUP = 2,
  QWEN35_DRAFT_ALWAYS = 4 /* as many as possible even if that takes longer: for tests */
};

typedef struct qwen35_session_params {
  uint32_t struct_size;
  uint32_t n_ctx;   /* tokens; 0: the model's native context. Reserved, committed as it fills */
  uint32_t n_batch; /* tokens evaluated at once in prefill, 8 to 8192; 0: 512. Bounds the scratch */
  int32_t kv_type;  /* QWEN35_KV_*; AUTO is F32 for files of F32 matrices, else F16 */
  uint32_t draft;   /* QWEN35_DRAFT_* together: where qwen35_session_decode() takes drafts from */
} qwen35_session_params;

/* Where the results of qwen35_session_eval() go. Rows are in token order. Zero it and set
 * struct_size to its size. */
typedef struct qwen35_outputs {
  uint32_t struct_size;
  const uint8_t *want; /* [n] nonzero: give a row for this token; NULL: the last token only */
  float *logits;       /* [rows, n_vocab] or NULL */
  float *hidden;       /* [rows, n_embd], after the final norm, or NULL */
  float *hidden_sum;   /* [n_embd]: the sum of the hidden rows is added to it, or NULL */
  /* Snapshots on the way, see qwen35_session_snapshot(): [n_snapshots] after how many tokens of the
   * call, ascending, and where to, state_bytes each. At multiples of 32 they change no bit of any
   * result; elsewhere the last bits may differ, as they do when a call is cut there. */
  uint32_t n_snapshots;
  const uint32_t *snapshot_at;
  void *const *snapshots;
  /* Continuations of the tokens of the call, as in qwen35_session_branch(), which are evaluated
   * together with the last of these: as good as free where the rest of a prompt is read. Their
   * tokens count behind those of the call, in `want` as well (NULL: all of them give a row), and
   * give rows of logits only: logits must be there, hidden and hidden_sum NULL. n_branches 0: none.
   */
  size_t n_branches;
  const uint32_t *branch_lengths; /* [n_branches] 1 to 8 tokens each */
  const int32_t *branch_tokens;
} qwen35_outputs;

/* Called after every batch, on the thread of the eval, with the tokens done so far; return nonzero
 * to cancel. It may use other sessions of the model, but not evaluate or reset this one. */
typedef int32_t (*qwen35_progress)(void *user, size_t done, size_t total);

QWEN35_API void qwen35_session_defaults(qwen35_session_params *params);
QWEN35_API qwen35_status qwen35_session_create(qwen35_model *model,
                                               const qwen35_session_params *params,
                                               qwen35_session **out);
QWEN35_API void qwen35_session_close(qwen35_session *session);
/* Tokens evaluated so far: the position of the next one. */
QWEN35_API uint32_t qwen35_session_position(const qwen35_session *session);
QWEN35_API uint32_t qwen35_session_context(const qwen35_session *session);
/* Forgets every token. */
QWEN35_API void qwen35_session_reset(qwen35_session *session);
/* Evaluates n >= 1 tokens at the current position, in batches. outputs may be NULL: then only the
 * logits of the last token are computed and kept for qwen35_session_sample(). They are kept as well
 * when the last token is wanted, unless only hidden states are asked for. progress may be NULL.
 * After ERROR_CANCELLED or ERROR_MEMORY the session stands behind the last finished batch, whose
 * rows have been given, and can be used on. After other errors nothing was evaluated. */
QWEN35_API qwen35_status qwen35_session_eval(qwen35_session *session, const int32_t *tokens,
                                             size_t n, const qwen35_outputs *outputs,
                                             qwen35_progress progress, void *user);
/* Evaluates n >= 1 continuations of the session's tokens, each as if it came next, together in as
 * few passes as n_batch allows. The session stays where it is and keeps the logits that it has.
 * This is how choices between several texts are weighed. lengths: [n], 1 to 8 tokens each; tokens:
 * of all continuations, one after another. want: [tokens], nonzero: give a row for this token;
 * NULL: for all. logits: [rows, n_vocab], in token order. After an error it is undefined. */
QWEN35_API qwen35_status qwen35_session_branch(qwen35_session *session, const int32_t *tokens,
                                               const uint32_t *lengths, size_t n,
                                               const uint8_t *want, float *logits);
/* Evaluates the rows that qwen35_vision_encode() gave for a picture, as the tokens that stand
 * between <|vision_start|> and <|vision_end|>. rows: [grid_rows * grid_columns, n_embd], finite. A
 * picture takes up max(grid_rows, grid_columns) rotary positions. No logits are kept: evaluate the
 * token that follows. hidden_sum: [n_embd], as in qwen35_outputs, or NULL. After any error nothing
 * was evaluated, and hidden_sum is undefined. */
QWEN35_API qwen35_status qwen35_session_eval_picture(qwen35_session *session, const float *rows,
                                                     uint32_t grid_rows, uint32_t grid_columns,
                                                     float *hidden_sum, qwen35_progress progress,
                                                     void *user);
/* The logits that the last eval kept, [n_vocab], valid until the next call with the session; NULL
 * when it kept none. Those behind a qwen35_session_decode() whose draw did not look at all of them
 * are computed now. */
QWEN35_API const float *qwen35_session_logits(qwen35_session *session);
/* Makes the eval now running on `session` (any thread) return ERROR_CANCELLED soon, or the next one
 * when none runs. A batch of at most 8 tokens, and the logits of a batch, are finished first: when
 * that was the last of its eval, the request counts for the next one. */
QWEN35_API void qwen35_session_cancel(qwen35_session *session);
/* Drops a cancel request that came too late. */
QWEN35_API void qwen35_session_clear_cancel(qwen35_session *session);
/* What a session takes of memory, in bytes; no weights need to be loaded. */
typedef struct qwen35_session_needs {
  uint64_t token_bytes; /* keys and values of a token */
  uint64_t kv;          /* of the whole context */
  uint64_t state;       /* recurrent state */
  uint64_t scratch; /* shared by all sessions of a model, with the copies that cancelling needs */
} qwen35_session_needs;

/* params may be NULL. n_threads as in qwen35_model_params, for models whose weights were not
 * loaded; for these kv_type AUTO counts as F16. Others have threads of their own, and keep the
 * scratch that their sessions share. */
QWEN35_API qwen35_status qwen35_session_estimate(qwen35_model *model, int32_t n_threads,
                                                 const qwen35_session_params *params,
                                                 qwen35_session_needs *out);
/* Bytes of address space reserved for the session and bytes committed so far, including the scratch
 * memory that all sessions of the model share; each may be NULL. */
QWEN35_API void qwen35_session_memory(const qwen35_session *session, uint64_t *reserved,
                                      uint64_t *committed);

/* Copies. A session's attention caches can be cut back to any token; its recurrent state cannot,
 * and has a fixed size. So a snapshot holds the state without the caches, and entries of the caches
 * are copied apart: those of a prefix serve every sequence that begins with it. Copies fit sessions
 * of the same model, kv_type and engine version. None of these calls may run during an eval. */

/* Bytes of a snapshot taken now: those of the recurrent state, and of the kept logits if any. */
QWEN35_API uint64_t qwen35_session_snapshot_bytes(const qwen35_session *session);
/* The same without logits, as snapshots on the way are. */
QWEN35_API uint64_t qwen35_session_state_bytes(const qwen35_session *session);
/* Copies state, position and kept logits to `out` of exactly snapshot_bytes. */
QWEN35_API qwen35_status qwen35_session_snapshot(qwen35_session *session, void *out,
                                                 uint64_t bytes);
/* Goes to where the snapshot was taken. The session must hold entries for every token before that
 * position, evaluated or imported; that they are the right ones is the caller's business. Entries
 * behind the position stay and may be exported or restored to until they are overwritten. */
QWEN35_API qwen35_status qwen35_session_restore(qwen35_session *session, const void *snapshot,
                                                uint64_t bytes);
/* Bytes of one token's entries in all caches. */
QWEN35_API uint64_t qwen35_session_token_bytes(const qwen35_session *session);
/* Copies the entries of tokens first .. first + n - 1 to `out`, n * token_bytes: token after token,
 * so that copies can be cut and joined anywhere. */
QWEN35_API qwen35_status qwen35_session_export(const qwen35_session *session, uint32_t first,
                                               uint32_t n, void *out, uint64_t bytes);
/* Writes entries that an export gave, without a gap behind those there are. Restore a snapshot
 * afterwards: entries before the position change what the session remembers. */
QWEN35_API qwen35_status qwen35_session_import(qwen35_session *session, uint32_t first, uint32_t n,
                                               const void *entries, uint64_t bytes);

/* ---- vision ------------------------------------------------------------------------------- */

typedef struct qwen35_vision qwen35_vision;

typedef struct qwen35_vision_info {
  uint32_t n_layer;
  uint32_t n_embd;
  uint32_t n_ff;
  uint32_t n_head;
  uint32_t n_out;        /* width of a row: n_embd of the text model */
  uint32_t patch_size;   /* pixels */
  uint32_t merge_size;   /* patches along a side of what becomes one row */
  int32_t matrix_type;   /* tensor type of most bytes of the layers' matrices */
  uint64_t n_params;     /* elements of all tensors */
  uint64_t weight_bytes; /* bytes of all tensors as stored */
} qwen35_vision_info;

/* Opens the vision tower in `path`: a separate projector file (mmproj), or a model's own file that
 * has one inside. ERROR_UNSUPPORTED when it has none, ERROR_MODEL when it does not fit `model`,
 * whose threads it uses and which must be closed later. Encoding belongs to one thread at a time.
 */
QWEN35_API qwen35_status qwen35_vision_open(qwen35_model *model, const char *path,
                                            qwen35_vision **out);
QWEN35_API void qwen35_vision_close(qwen35_vision *vision);
QWEN35_API qwen35_status qwen35_vision_get_info(const qwen35_vision *vision,
                                                qwen35_vision_info *out);
/* Encodes a picture, or two frames of a video that follow each other. first, second: [height,
 * width, 3] RGB; second is NULL for pictures. Sides are multiples of patch_size * merge_size (32),
 * with at most 65,536 patches. rows: [height / 32 * (width / 32), n_out], row by row. progress gets
 * layers and may be NULL. After an error rows is undefined. */
QWEN35_API qwen35_status qwen35_vision_encode(qwen35_vision *vision, const uint8_t *first,
                                              const uint8_t *second, uint32_t height,
                                              uint32_t width, float *rows, qwen35_progress progress,
                                              void *user);
/* Makes the encode now running (any thread), or the next one, return ERROR_CANCELLED soon. */
QWEN35_API void qwen35_vision_cancel(qwen35_vision *vision);
/* Drops a cancel request that came too late. */
QWEN35_API void qwen35_vision_clear_cancel(qwen35_vision *vision);
/* Bytes of scratch memory that encoding a picture of this size takes, besides the rows; 0 for more
 * than 65,536 patches. */
QWEN35_API uint64_t qwen35_vision_scratch(const qwen35_vision *vision, uint32_t height,
                                          uint32_t width);

/* ---- sampling ----------------------------------------------------------------------------- */

typedef struct qwen35_sampler qwen35_sampler;

/* Order of application: allowed tokens, logit bias, penalties, temperature, top_k, top_p, min_p,
 * draw. temperature 0 is greedy and ignores top_k, top_p and min_p. */
typedef struct qwen35_sampling_params {
  uint32_t struct_size;
  float temperature;        /* >= 0 */
  int32_t top_k;            /* 0: off */
  float top_p;              /* 1: off */
  float min_p;              /* 0: off */
  float presence_penalty;   /* subtracted once from every id already generated */
  float frequency_penalty;  /* subtracted per occurrence */
  float repetition_penalty; /* 1: off; divides positive, multiplies negative logits, prompt included
                             */
  uint64_t seed;
  int32_t n_logprobs;         /* alternatives to report with each token, 0..20; -1: no logprobs */
  const int32_t *bias_tokens; /* [n_bias] or NULL */
  const float *bias_values;   /* [n_bias] added to the logits */
  size_t n_bias;
} qwen35_sampling_params;

typedef struct qwen35_logprob {
  int32_t token;
  float logprob; /* natural log, of the distribution before temperature and truncation */
} qwen35_logprob;

typedef struct qwen35_sample {
  int32_t token;
  float logprob;
  int32_t n_top;          /* entries used in top */
  qwen35_logprob top[20]; /* most likely first */
} qwen35_sample;

QWEN35_API void qwen35_sampling_defaults(qwen35_sampling_params *params);
/* The arrays in params are copied. */
QWEN35_API qwen35_status qwen35_sampler_create(const qwen35_model *model,
                                               const qwen35_sampling_params *params,
                                               qwen35_sampler **out);
QWEN35_API void qwen35_sampler_close(qwen35_sampler *sampler);
/* Tells the sampler about tokens it did not draw. from_prompt: counted by repetition_penalty only.
 */
QWEN35_API qwen35_status qwen35_sampler_accept(qwen35_sampler *sampler, const int32_t *tokens,
                                               size_t n, int32_t from_prompt);
/* Limits the draws that follow to tokens whose bit is set: bit i % 32 of words[i / 32] for token i,
 * n_words (n_vocab + 31) / 32 of them, copied. NULL allows every token again. Log-probabilities are
 * not changed by it: they stay those of the model. */
QWEN35_API qwen35_status qwen35_sampler_allow(qwen35_sampler *sampler, const uint32_t *words,
                                              size_t n_words);
/* Draws from logits [n_vocab] and accepts the token drawn. Unused vocabulary rows are never drawn.
 * ERROR_MODEL when all logits are NaN or -inf: damaged weights give such. */
QWEN35_API qwen35_status qwen35_sampler_sample(qwen35_sampler *sampler, const float *logits,
                                               qwen35_sample *out);
/* Draws from the logits that the last eval of `session` kept. ERROR_ARGUMENT when there are none,
 * or when the sampler was created for a model with another size of vocabulary. */
QWEN35_API qwen35_status qwen35_session_sample(qwen35_session *session, qwen35_sampler *sampler,
                                               qwen35_sample *out);

/* ---- decoding with drafts ------------------------------------------------------------------- */

/* What may come next, for texts that follow a grammar: functions that qwen35_session_decode() calls
 * on its thread while it runs. They must not use session or sampler, nor evaluate anything with the
 * model. Zero it and set struct_size to its size.
 *
 * follow: how many of drafts [n], from the first on, may be evaluated behind the tokens of the
 * call, 0 to n. A draft must not be counted when it is not allowed where it stands, nor when no
 * token is to be drawn behind it: because the text then is whole, or because the caller knows what
 * comes next. Called any number of times before the first draw.
 *
 * allow: the tokens allowed behind drawn [n], which this call has drawn. Called once before each
 * draw, with n 0, 1, 2 and so on; a draft that turns out wrong ends the call, so that nothing is
 * asked about what would be behind it. Words as in qwen35_sampler_allow(), which must stay until
 * the next call; NULL: nothing can be drawn. */
typedef struct qwen35_limits {
  uint32_t struct_size;
  void *user; /* given to the functions */
  size_t (*follow)(void *user, const int32_t *drafts, size_t n);
  const uint32_t *(*allow)(void *user, const int32_t *drawn, size_t n);
} qwen35_limits;

/* Evaluates n tokens, as qwen35_session_eval(), and draws those that follow, 1 to `max`: with
 * n == 0 from the logits that are kept. Behind 1 to 7 tokens, drafts of the sources in
 * qwen35_session_params.draft are evaluated in the same pass as long as that saves time (those of
 * MTP behind a single token only), and drawn tokens are taken from the rows of drafts that were
 * right. Tokens, log-probabilities and seeds are the same as without drafts. A token of stop_tokens
 * [n_stop] (NULL when n_stop is 0) is the last one drawn. limits may be NULL; otherwise it takes
 * the place of qwen35_sampler_allow(), and every token is allowed again after the call. out: [max];
 * at most 8 are used. The last token drawn is not evaluated: give it to the next call. Where a
 * token cannot be drawn, those before it are given; the call fails when it is the first. */
QWEN35_API qwen35_status qwen35_session_decode(qwen35_session *session, const int32_t *tokens,
                                               size_t n, qwen35_sampler *sampler,
                                               const int32_t *stop_tokens, size_t n_stop,
                                               const qwen35_limits *limits, qwen35_sample *out,
                                               size_t max, size_t *n_out);
/* How qwen35_session_decode() reads the output head where a draw looks at nothing but the largest
 * logits: greedy, or with top_k, and without log-probabilities and limits. The high bits of all
 * rows (of Q6_K, on CPUs with AVX-512) then say which groups of 16 rows can have them, and only
 * those are read whole: the logits that count have the same bits. Where the low bits turn out to be
 * less random than that takes them for, the whole head is read after all. Sums over all sessions of
 * the model. */
typedef struct qwen35_head_stats {
  uint64_t looks;      /* passes that took a first look */
  uint64_t groups;     /* they looked at */
  uint64_t read;       /* of these, whole */
  uint64_t vain;       /* looks that left too many groups, so that everything was read */
  uint64_t repairs;    /* looks that could not be trusted: the same */
  int64_t bytes_saved; /* of weights, which were not read */
} qwen35_head_stats;
QWEN35_API void qwen35_model_head_statistics(qwen35_model *model, qwen35_head_stats *out);
/* Undoes the last n tokens that the last qwen35_session_decode() drew, with this sampler, as if
 * they had never been drawn: for a caller that goes on otherwise. Nothing else may have happened to
 * session and sampler since. */
QWEN35_API qwen35_status qwen35_session_take_back(qwen35_session *session, qwen35_sampler *sampler,
                                                  size_t n);
/* Tells the session the text before the next token, which lookups search: the tokens evaluated,
 * with any negative number for cells of pictures. qwen35_session_decode() adds what it evaluates.
 */
QWEN35_API qwen35_status qwen35_session_draft_context(qwen35_session *session,
                                                      const int32_t *tokens, size_t n);

/* Sums over the life of the session; taking back does not lower them. */
typedef struct qwen35_draft_stats {
  uint64_t drawn;        /* tokens drawn by qwen35_session_decode() */
  uint64_t drafted;      /* drafts that the model checked */
  uint64_t accepted;     /* and that were right */
  uint64_t steps;        /* of the MTP layer */
  uint64_t passes;       /* over a token and its drafts */
  double step_seconds;   /* head included */
  double pass_seconds;   /* output head included */
  uint64_t rows[8];      /* [i] passes of i + 1 rows */
  double row_seconds[8]; /* their time */
} qwen35_draft_stats;

QWEN35_API void qwen35_session_draft_statistics(const qwen35_session *session,
                                                qwen35_draft_stats *out);
/* For benchmarks of random weights: from now on draft i of a pass is taken for right with
 * probability chances[i], whatever the sampler draws and however sure the layer is of its draft.
 * n: 0 to 7; 0 ends it. */
QWEN35_API qwen35_status qwen35_session_impose_acceptance(qwen35_session *session,
                                                          const float *chances, size_t n);

/* ---- text stream: tokens to text, with stop strings ---------------------------------------- */

typedef struct qwen35_stream qwen35_stream;

/* Stop strings are n_stop pointers with their lengths (at most 16 of 1 to 256 bytes); copied. Both
 * may be NULL when n_stop is 0. Control tokens print nothing unless `special` is nonzero. */
QWEN35_API qwen35_status qwen35_stream_create(const qwen35_model *model, const char *const *stop,
                                              const size_t *stop_lengths, size_t n_stop,
                                              int32_t special, qwen35_stream **out);
QWEN35_API void qwen35_stream_close(qwen35_stream *stream);
/* Feeds one token. *text and *length receive whole characters that can be shown now (valid until
 * the next call); text that may still turn out to be a stop string or half a character is held
 * back. *stopped is set to the index of the stop string met, else -1; the stop string is not shown.
 */
QWEN35_API qwen35_status qwen35_stream_push(qwen35_stream *stream, int32_t token, const char **text,
                                            size_t *length, int32_t *stopped);
/* Ends the stream: gives what was held back, a truncated character as U+FFFD. */
QWEN35_API qwen35_status qwen35_stream_finish(qwen35_stream *stream, const char **text,
                                              size_t *length);

/* ---- GGUF files and quantisation: for converters and inspection ------------------------------ */

typedef struct qwen35_gguf qwen35_gguf;

typedef struct qwen35_gguf_value {
  const char *key;
  size_t key_length;
  int32_t type;         /* GGUF value type: 0 u8, 1 i8, ... 8 string, 9 array, ... 12 f64 */
  int32_t element_type; /* of an array; else -1 */
  uint64_t count;       /* elements of an array; else 1 */
  const void *data; /* little-endian scalars; strings: u64 length and bytes, one after another */
  uint64_t bytes;   /* of data */
} qwen35_gguf_value;

typedef struct qwen35_gguf_tensor {
  const char *name;
  size_t name_length;
  int32_t type; /* tensor type, see qwen35_type_info */
  uint32_t n_dims;
  uint64_t ne[4];  /* fastest dimension first, 1 where unused */
  uint64_t offset; /* from the start of its file */
  uint64_t bytes;
  uint32_t shard; /* index of the file for sharded models */
} qwen35_gguf_tensor;

/* Any well-formed GGUF file, of any architecture. */
QWEN35_API qwen35_status qwen35_gguf_open(const char *path, qwen35_gguf **out);
QWEN35_API void qwen35_gguf_close(qwen35_gguf *file);
QWEN35_API size_t qwen35_gguf_value_count(const qwen35_gguf *file);
QWEN35_API qwen35_status qwen35_gguf_get_value(const qwen35_gguf *file, size_t index,
                                               qwen35_gguf_value *out);
QWEN35_API size_t qwen35_gguf_tensor_count(const qwen35_gguf *file);
QWEN35_API qwen35_status qwen35_gguf_get_tensor(const qwen35_gguf *file, size_t index,
                                                qwen35_gguf_tensor *out);
/* Reads `bytes` bytes of a tensor from byte `offset` of its data. After a failure *dst is
 * undefined; dst may be NULL when bytes is 0. */
QWEN35_API qwen35_status qwen35_gguf_read(const qwen35_gguf *file, size_t index, uint64_t offset,
                                          void *dst, uint64_t bytes);

typedef struct qwen35_type_traits {
  const char *name;     /* e.g. "Q4_K" */
  uint32_t block_size;  /* values in a block */
  uint32_t block_bytes; /* bytes of a block */
  int32_t can_encode;
} qwen35_type_traits;

/* ERROR_UNSUPPORTED for a type the engine does not know. */
QWEN35_API qwen35_status qwen35_type_info(int32_t type, qwen35_type_traits *out);
/* Encodes rows x cols floats. importance: [cols] weights >= 0 (mean squared activations) or NULL.
 * cols must be a multiple of block_size. Single-threaded: split by rows for more. */
QWEN35_API qwen35_status qwen35_quantize(int32_t type, const float *src, uint64_t rows,
                                         uint64_t cols, const float *importance, void *dst);
QWEN35_API qwen35_status qwen35_dequantize(int32_t type, const void *src, uint64_t rows,
                                           uint64_t cols, float *dst);

#ifdef __cplusplus
}
#endif

#endif /* QWEN35_H */
