// What a broken invariant says: runs code that must stop the program, in a child process.
#pragma once

#include <functional>
#include <string>

namespace fusefs {

// What `fn` printed on stderr before it aborted; empty if it did not abort.
std::string last_words(const std::function<void()>& fn);

}  // namespace fusefs
