// The statistics of a mounted volume as text: the `data` object of docs/STATS.md on one line.
#pragma once

#include <memory>
#include <string>

#include "core/stats/json.h"
#include "fusefs/server.h"

namespace fusefs {

struct StatsStash {
  std::shared_ptr<Json> model;  // collected inside the monitor
  std::shared_ptr<std::string> text;
};

// Restarts  once, to turn the model into text without the monitor
Attempt<std::string> stats_text(Server& server, StatsStash& stash);

}  // namespace fusefs
