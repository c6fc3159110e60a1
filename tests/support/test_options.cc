#include "tests/support/test_options.h"

#include <errno.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <doctest/doctest.h>

// Of the address sanitizer, which reports without a signal; null without it.
extern "C" __attribute__((weak)) void __sanitizer_set_death_callback(void (*callback)());

namespace fusefs {
namespace {

constexpr uint32_t kForcedPercentMax = 90;

// What a signal handler may print: made before the seed runs, empty outside of for_each_seed().
char g_replay[1024] = "";
std::string g_test_name;

void print_replay() {
  const size_t len = strnlen(g_replay, sizeof(g_replay));
  if (len != 0 && write(STDERR_FILENO, g_replay, len) < 0) return;
  g_replay[0] = '\0';  // once for each seed
}

// While seeds run, a fatal signal prints the replay line first and then goes on to whoever handled
// it before: doctest, which reports the test.
constexpr std::array<int, 2> kFatalSignals = {SIGABRT, SIGSEGV};
std::array<struct sigaction, 2> g_previous;

void restore_handlers() {
  for (size_t i = 0; i < kFatalSignals.size(); ++i) {
    sigaction(kFatalSignals[i], &g_previous[i], nullptr);
  }
}

void on_fatal_signal(int signal_number) {
  print_replay();
  restore_handlers();
  raise(signal_number);
}

class FatalHandlers {
 public:
  FatalHandlers() {
    struct sigaction action = {};
    action.sa_handler = on_fatal_signal;
    for (size_t i = 0; i < kFatalSignals.size(); ++i) {
      sigaction(kFatalSignals[i], &action, &g_previous[i]);
    }
    if (__sanitizer_set_death_callback != nullptr) __sanitizer_set_death_callback(print_replay);
  }
  ~FatalHandlers() { restore_handlers(); }
  FatalHandlers(const FatalHandlers&) = delete;
  FatalHandlers& operator=(const FatalHandlers&) = delete;
};

// Knows the name of the running test, and when an assertion fails.
struct ReplayListener final : doctest::IReporter {
  explicit ReplayListener(const doctest::ContextOptions&) {}
  void report_query(const doctest::QueryData&) override {}
  void test_run_start() override {}
  void test_run_end(const doctest::TestRunStats&) override {}
  void test_case_start(const doctest::TestCaseData& test) override { g_test_name = test.m_name; }
  void test_case_reenter(const doctest::TestCaseData&) override {}
  void test_case_end(const doctest::CurrentTestCaseStats&) override {}
  void test_case_exception(const doctest::TestCaseException&) override { print_replay(); }
  void subcase_start(const doctest::SubcaseSignature&) override {}
  void subcase_end() override {}
  void log_assert(const doctest::AssertData& data) override {
    if (data.m_failed) print_replay();
  }
  void log_message(const doctest::MessageData& data) override {
    if (data.m_severity != doctest::assertType::is_warn) print_replay();
  }
  void test_case_skipped(const doctest::TestCaseData&) override {}
};
REGISTER_LISTENER("replay", 1, ReplayListener);

std::optional<uint64_t> number_from(const char* name) {
  const char* text = std::getenv(name);
  if (text == nullptr || *text == '\0') return std::nullopt;
  char* end = nullptr;
  errno = 0;
  const uint64_t value = std::strtoull(text, &end, 0);
  if (errno != 0 || *end != '\0' || *text == '-') {
    std::fprintf(stderr, "%s=%s: not a number\n", name, text);
    std::exit(2);
  }
  return value;
}

}  // namespace

TestOptions TestOptions::from_environment() {
  TestOptions options;
  options.seed_first = number_from("FUSEFS_SEED").value_or(options.seed_first);
  options.seed_count = number_from("FUSEFS_SEEDS");
  if (auto percent = number_from("FUSEFS_FORCED")) {
    options.forced_percents = {
        static_cast<uint32_t>(std::min<uint64_t>(*percent, kForcedPercentMax))};
  }
  return options;
}

std::string replay_line(const TestSeed& seed, const std::string& test_name) {
  std::string filter = test_name;
  std::replace(filter.begin(), filter.end(), ',', '?');  // a comma would end the filter
  std::replace(filter.begin(), filter.end(), '"', '?');
  const auto percent = static_cast<unsigned>(seed.forced_restart_probability * 100 + 0.5);
  return "FUSEFS_SEED=" + std::to_string(seed.seed) +
         " FUSEFS_SEEDS=1 FUSEFS_FORCED=" + std::to_string(percent) + " " +
         program_invocation_name + " --test-case=\"" + filter + "\"";
}

bool for_each_seed(uint64_t seed_count_default, const std::function<void(const TestSeed&)>& body) {
  const FatalHandlers handlers;
  const TestOptions options = TestOptions::from_environment();
  const uint64_t count = options.seed_count.value_or(seed_count_default);
  for (uint64_t i = 0; i < count; ++i) {
    for (const uint32_t percent : options.forced_percents) {
      const TestSeed seed{options.seed_first + i, percent / 100.0};
      const std::string line = "replay: " + replay_line(seed, g_test_name) + "\n";
      std::snprintf(g_replay, sizeof(g_replay), "%s", line.c_str());
      body(seed);
      g_replay[0] = '\0';
    }
  }
  return count * options.forced_percents.size() >=
         seed_count_default * TestOptions{}.forced_percents.size();
}

}  // namespace fusefs
