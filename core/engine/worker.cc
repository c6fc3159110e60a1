#include "core/engine/worker.h"

namespace fusefs {

void Worker::do_outside(Scheduler::Handout& handout) {
  for (auto& operation : handout.finished) Scheduler::finish(*operation);
  for (Operation* operation : handout.outside) Scheduler::run_outside(*operation);
}

void Worker::take_back(Scheduler::Handout& handout) {
  scheduler_.retire(handout.finished);
  for (Operation* operation : handout.outside) scheduler_.outside_done(*operation);
  handout.outside.clear();
}

}  // namespace fusefs
