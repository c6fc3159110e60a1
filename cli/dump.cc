// fusefs dump: any structure of an image as JSON, printed while it is read.
//
// The document is the common envelope with `data` in front of `exit_status` and `messages`: how it
// ends is known only when everything has been printed.
#include "core/volume/dump.h"

#include <charconv>
#include <nlohmann/json.hpp>

#include "cli/tool.h"

namespace fusefs::cli {
namespace {

struct DumpArguments {
  std::string path;
  std::vector<std::string> what;
  bool json = true;  // there is no other form
};

struct Subject {
  std::string_view word;
  DumpSubject subject;
  const char* argument;  // what has to follow, or null
};

constexpr Subject kSubjects[] = {
    {"superblock", DumpSubject::superblock, nullptr},
    {"journal", DumpSubject::journal, nullptr},
    {"tree", DumpSubject::tree, nullptr},
    {"orphans", DumpSubject::orphans, nullptr},
    {"shared", DumpSubject::shared, nullptr},
    {"inode", DumpSubject::inode, "number"},
    {"group", DumpSubject::group, "number"},
    {"node", DumpSubject::node, "block"},
    {"path", DumpSubject::path, "path"},
};

bool parse_number(const std::string& text, uint64_t* number) {
  const char* end = text.data() + text.size();
  const auto [stopped, failure] = std::from_chars(text.data(), end, *number);
  return failure == std::errc() && stopped == end;
}

// False, and `message` says why.
bool parse_request(const std::vector<std::string>& what, DumpRequest* request,
                   std::string* message) {
  if (what.empty()) return true;
  for (const Subject& subject : kSubjects) {
    if (subject.word != what[0]) continue;
    request->subject = subject.subject;
    const size_t wanted = subject.argument == nullptr ? 1 : 2;
    if (what.size() != wanted) {
      *message = what[0] + (wanted == 1 ? ": takes no argument"
                                        : std::string(": needs a ") + subject.argument);
      return false;
    }
    if (subject.subject == DumpSubject::path) {
      request->path = what[1];
    } else if (wanted == 2 && !parse_number(what[1], &request->number)) {
      *message = what[0] + " " + what[1] + ": not a number";
      return false;
    }
    return true;
  }
  *message = what[0] +
             ": no such structure; there are superblock, journal, tree, orphans, shared, inode N, "
             "group N, node BLOCK, path PATH";
  return false;
}

std::string in_line(const Json& value) {
  std::string text = dump_json(value, JsonLayout::line);
  text.pop_back();  // the end of the line
  return text;
}

// Prints `"key": value` pieces with commas between them, indented below the envelope.
class Printer final : public DumpSink {
 public:
  void member(const char* key, Json value) override {
    begin(key);
    std::fputs(in_line(value).c_str(), stdout);
  }
  void begin_list(const char* key) override {
    begin(key);
    std::fputc('[', stdout);
    in_list_ = true;
    first_item_ = true;
  }
  void item(Json value) override {
    std::printf("%s\n      %s", first_item_ ? "" : ",", in_line(value).c_str());
    first_item_ = false;
  }
  void end_list() override {
    std::fputs(first_item_ ? "]" : "\n    ]", stdout);
    in_list_ = false;
  }
  // A dump that failed may have left a list open.
  void end() {
    if (in_list_) end_list();
    if (!first_) std::fputs("\n  ", stdout);
  }

 private:
  void begin(const char* key) {
    std::printf("%s\n    \"%s\": ", first_ ? "" : ",", key);
    first_ = false;
  }

  bool first_ = true;
  bool in_list_ = false;
  bool first_item_ = true;
};

// "key": value lines of the envelope, but for its data.
void print_members(const Json& envelope, std::initializer_list<const char*> keys) {
  const char* comma = "";
  for (const char* key : keys) {
    std::printf("%s  \"%s\": %s", comma, key, in_line(envelope[key]).c_str());
    comma = ",\n";
  }
}

std::string error_sentence(const DumpArguments& arguments, const DumpRequest& request,
                           Error error) {
  if (error == Error::not_found) {
    return arguments.path + ": no " + arguments.what[0] + " " + arguments.what[1];
  }
  if (error == Error::invalid_argument) {
    return arguments.path + ": " + arguments.what[0] + " " + std::to_string(request.number) +
           " lies outside the volume";
  }
  return open_error_text(arguments.path, error, {});
}

int run_dump(const DumpArguments& arguments) {
  Output out("dump", true);
  DumpRequest request;
  std::string message;
  if (!parse_request(arguments.what, &request, &message)) return out.fail(message, kExitUsage);
  DeviceOptions options;
  options.read_only = true;
  const std::unique_ptr<Image> image = Image::open(arguments.path, options, &message);
  if (!image) return out.fail(message);

  std::fputs("{\n", stdout);
  print_members(out.envelope(kExitOk, {}),
                {"schema", "schema_version", "tool_version", "generated_unix_ns"});
  std::fputs(",\n  \"data\": {", stdout);
  Printer printer;
  Dump dump(image->device(), request, printer);
  const Result<void> result = image->runner().run("dump", [&] { return dump.run(); });
  printer.end();
  std::fputs("},\n", stdout);
  if (!result.ok()) out.complain(error_sentence(arguments, request, result.error()));
  const int exit_code = result.ok() ? kExitOk : kExitFailed;
  print_members(out.envelope(exit_code, {}), {"exit_status", "messages"});
  std::fputs("\n}\n", stdout);
  return exit_code;
}

}  // namespace

void add_dump(CLI::App& app, int& exit_code) {
  auto arguments = std::make_shared<DumpArguments>();
  CLI::App* command =
      app.add_subcommand("dump", "Print any structure of an image as JSON, damaged or not");
  command->add_option("IMAGE", arguments->path, "Image file or block device")->required();
  command->add_option("WHAT", arguments->what,
                      "superblock, journal, tree, orphans, shared, inode N, group N, node BLOCK or "
                      "path PATH; without it an overview");
  command->add_flag("--json", arguments->json, "Accepted: a dump is always JSON");
  command->callback([arguments, &exit_code] { exit_code = run_dump(*arguments); });
}

}  // namespace fusefs::cli
