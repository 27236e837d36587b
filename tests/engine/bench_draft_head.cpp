// Time of a draft head by its number of rows: the shortest of many steps, each behind a reading of
// the whole matrix, as a pass of the model would leave the caches.
//
//   bench_draft_head MODEL THREADS ROWS...
#include <algorithm>

#include "engine/handles.h"
#include "kernels/timing.h"
#include "runtime/draft_head.h"
#include "runtime/engine.h"

int main(int argc, char **argv) {
  expect(argc > 3, "usage: bench_draft_head MODEL THREADS ROWS...");
  constexpr int kRounds = 30;
  const Model model = open_model(argv[1], std::atoi(argv[2]));
  const Session session = open_session(model.get(), 64, 64);  // for the scratch of the threads
  std::vector<float> state(model->config.n_embd);
  for (size_t i = 0; i < state.size(); i++) state[i] = static_cast<float>(i % 7) - 3.0f;
  q35::DraftHead whole;
  expect_ok(whole.init(model->text.weights.output, model->config.n_vocab), "init");
  for (int i = 3; i < argc; i++) {
    q35::DraftHead head;
    expect_ok(head.init(model->text.weights.output, static_cast<uint32_t>(std::atoi(argv[i]))),
              "init");
    double best = 1e30;
    for (int round = 0; round < kRounds; round++) {
      q35::Batcher::Exclusive threads(&model->batcher);
      float p = 0;
      whole.best(model->kernels, threads.backend(), state.data(), &p);
      const double start = q35::seconds();
      head.best(model->kernels, threads.backend(), state.data(), &p);
      best = std::min(best, q35::seconds() - start);
    }
    std::printf("%s %.6f\n", argv[i], 1e3 * best);
  }
  return 0;
}
