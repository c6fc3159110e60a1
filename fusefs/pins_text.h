// The text of FUSEFS_IOC_PINS: who holds which pages (docs/WINDOWS.md, "Who holds what").
#pragma once

#include <cstdint>
#include <string>

namespace fusefs {

class Server;

// JSON of what `uid` may see: root everything, others what is theirs. Monitor held.
std::string pins_text(Server& server, uint32_t uid);

}  // namespace fusefs
