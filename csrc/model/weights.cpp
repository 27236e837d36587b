#include "model/weights.h"

#include "model/tensor_table.h"

namespace q35 {

Status load_weights(const gguf::File &file, const Config &config, bool use_mmap,
                    const WeaveFn *weave, ThreadPool *pool, Weights *out) {
  Weights w;
  Array<TensorSlot> slots;
  Q35_TRY(match_tensors(file, config, &w, &slots));
  Q35_TRY(load_slots(file, slots, use_mmap, weave, pool, &w.store));
  if (w.tied) w.output = w.token_embd;
  *out = std::move(w);
  return kOk;
}

}  // namespace q35
