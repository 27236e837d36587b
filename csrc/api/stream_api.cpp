// C API of the text stream: checks of pointers, lengths to string views and back.
#include <new>

#include "api/api.h"
#include "runtime/engine.h"
#include "runtime/text_stream.h"

using q35::clear_error;
using q35::fail;
using q35::kOk;
using q35::refuse_null;
using q35::Status;
using q35::TextStream;

namespace {

void give(std::string_view view, const char **text, size_t *length) {
  *text = view.data();
  *length = view.size();
}

}  // namespace

qwen35_status qwen35_stream_create(const qwen35_model *model, const char *const *stop,
                                   const size_t *stop_lengths, size_t n_stop, int32_t special,
                                   qwen35_stream **out) {
  clear_error();
  if (model == nullptr) return refuse_null("qwen35_stream_create", "model");
  if (stop == nullptr && n_stop != 0) return refuse_null("qwen35_stream_create", "stop");
  if (stop_lengths == nullptr && n_stop != 0) {
    return refuse_null("qwen35_stream_create", "stop_lengths");
  }
  if (out == nullptr) return refuse_null("qwen35_stream_create", "out");
  std::string_view stops[TextStream::kMaxStops];
  for (size_t i = 0; i < n_stop && i < TextStream::kMaxStops; i++) {  // init() refuses more
    if (stop[i] == nullptr) {
      return fail(QWEN35_ERROR_ARGUMENT, "qwen35_stream_create: stop[%zu] is NULL", i);
    }
    stops[i] = std::string_view(stop[i], stop_lengths[i]);
  }
  qwen35_stream *created = new (std::nothrow) qwen35_stream;
  if (created == nullptr) return fail(QWEN35_ERROR_MEMORY, "out of memory: text stream");
  const Status status = created->stream.init(&model->tokenizer, stops, n_stop, special != 0);
  if (status != kOk) {
    delete created;
    return status;
  }
  *out = created;
  return kOk;
}

void qwen35_stream_close(qwen35_stream *stream) {
  delete stream;
}

qwen35_status qwen35_stream_push(qwen35_stream *stream, int32_t token, const char **text,
                                 size_t *length, int32_t *stopped) {
  clear_error();
  if (stream == nullptr) return refuse_null("qwen35_stream_push", "stream");
  if (text == nullptr) return refuse_null("qwen35_stream_push", "text");
  if (length == nullptr) return refuse_null("qwen35_stream_push", "length");
  if (stopped == nullptr) return refuse_null("qwen35_stream_push", "stopped");
  std::string_view shown;
  Q35_TRY(stream->stream.push(token, &shown, stopped));
  give(shown, text, length);
  return kOk;
}

qwen35_status qwen35_stream_finish(qwen35_stream *stream, const char **text, size_t *length) {
  clear_error();
  if (stream == nullptr) return refuse_null("qwen35_stream_finish", "stream");
  if (text == nullptr) return refuse_null("qwen35_stream_finish", "text");
  if (length == nullptr) return refuse_null("qwen35_stream_finish", "length");
  std::string_view shown;
  Q35_TRY(stream->stream.finish(&shown));
  give(shown, text, length);
  return kOk;
}
