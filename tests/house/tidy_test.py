#!/usr/bin/env python3
"""The rules of the house that a compiler does not see. Standard library only.

  tidy_test.py [ROOT]        checks the tree; prints one line per finding; exit status 0 only without findings
  tidy_test.py --self-test   plants one wrong thing at a time in a copy of the tree and expects it to be found

Rules: include arrows and link arrows between rooms, third-party headers in their rooms, every source built by some
CMakeLists.txt, every C++ file opening with what it is for (or with its own header, which says it), line lengths, no
reminders left behind, no paths of one machine, and every link and file name in the documents leading somewhere.
"""
import os
import pathlib
import re
import shutil
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve()
ROOT = HERE.parents[2]
COLUMNS = 130
DOCUMENT_COLUMNS = 145

# Which room may include which; every room may include itself. docs/ARCHITECTURE.md says why.
ARROWS = {
    "base": set(),
    "proto": set(),
    "transport": {"base"},
    "kernels": {"base"},
    "model": {"kernels", "transport", "base"},
    "worker": {"model", "kernels", "transport", "proto", "base"},
    "coordinator": {"proto", "base"},
}
EVERYTHING = set(ARROWS) | {"cli"}
for free in ("cli", "tests", "tools"):
    ARROWS[free] = EVERYTHING | {free}
# Libraries named after a part of a room, not after the room.
LIBRARY_ROOM = {"tokenizer": "coordinator", "chat": "coordinator", "grammar": "coordinator", "dialects": "coordinator", "planner": "coordinator",
                "step": "worker", "options": "cli"}

WIRE_FILE = r"(coordinator|worker)/\w*(wire|service|server|client)\w*\.(h|cc)|(cli|proto|tests)/.*"
# Header prefix -> the files that may include it.
THIRD_PARTY = [
    (r"absl/", r".*"),
    (r"gtest/|gmock/", r"tests/.*"),
    (r"nlohmann/", r"(model|coordinator|worker|cli|tests|tools)/.*"),
    (r"openssl/", r"base/sha256\.cc"),
    (r"pcre2\.h", r"coordinator/.*"),
    (r"unicode/", r"coordinator/.*"),
    (r"prometheus/", r"coordinator/metric_families\.cc"),
    (r"liburing\.h", r"model/ring_reader\.cc"),
    (r"uc[pst]/", r"transport/ucx\.cc"),
    (r"nccl", r"tests/transport/nccl_abi_test\.cc"),  # the product declares what it calls (transport/gpu_calls.h)
    (r"cuda|cub/|cublas|mma\.h|nvrtc", r"kernels/cuda/.*|tests/transport/nccl_abi_test\.cc"),
    (r"grpc/|grpc\+\+/|grpcpp/|google/protobuf/|google/rpc/|paceline/.*\.pb\.h", WIRE_FILE),
    (r"CLI/", r"cli/.*"),
    (r"boost/", r"coordinator/http/server\.cc|cli/http_client\.cc"),
    (r"histedit\.h", r"cli/line_reader\.cc"),
]
SOURCE = {".h", ".cc", ".cu", ".cuh"}
TEXT = SOURCE | {".py", ".sh", ".cmake", ".md", ".proto", ".txt", ".supp"}
SKIPPED_FOLDERS = {"build", ".git", ".cache", "__pycache__", ".venv"}
# Files that arrive whole from elsewhere or are data.
FOREIGN = re.compile(r"tests/goldens/|deploy/demo-model/|tests/requirements\.txt$")
REMINDER = re.compile(r"\b(TO" r"DO|FIX" r"ME|X" r"XX)\b")
MACHINE_PATH = re.compile(r"(?<![\w./$}{-])/(work|home|root|Users|mnt)/\w")


class Tree:
    def __init__(self, root):
        self.root = pathlib.Path(root)
        self.files = {}  # name relative to the root -> text, None for what is not text
        for folder, folders, names in os.walk(self.root):
            folders[:] = sorted(f for f in folders if f not in SKIPPED_FOLDERS)
            for name in sorted(names):
                path = pathlib.Path(folder, name)
                relative = path.relative_to(self.root).as_posix()
                is_text = path.suffix in TEXT or relative in ("run", ".ci/run")
                self.files[relative] = path.read_text(encoding="utf-8") if is_text else None

    def texts(self, *suffixes):
        for name, text in self.files.items():
            if text is not None and not FOREIGN.match(name) and (not suffixes or pathlib.Path(name).suffix in suffixes):
                yield name, text


def room_of(name):
    return name.split("/", 1)[0]


def include_arrows(tree):
    cli_files = []
    for name, text in tree.texts(*SOURCE):
        room = room_of(name)
        if room not in ARROWS:
            yield f"{name}: C++ outside the rooms {', '.join(sorted(ARROWS))}"
            continue
        for number, line in enumerate(text.splitlines(), 1):
            found = re.match(r'\s*#\s*include\s*(["<])([^">]+)[">]', line)
            if not found:
                continue
            where, quoted, header = f"{name}:{number}", found[1] == '"', found[2]
            target = room_of(header)
            if quoted and header in tree.files:
                if target != room and target not in ARROWS[room]:
                    yield f"{where}: {room}/ may not include {target}/ ({header})"
                continue
            if header.startswith("CLI/"):
                cli_files.append(where)
            for prefix, files in THIRD_PARTY:
                if re.match(prefix, header):
                    if not re.fullmatch(files, name):
                        yield f"{where}: <{header}> does not belong in this file (allowed: {files})"
                    elif header.endswith(".pb.h") and "proto" not in ARROWS[room]:
                        yield f"{where}: {room}/ may not include proto/ ({header})"
                    break
            else:
                if quoted:
                    yield f"{where}: \"{header}\" is neither a file of the tree nor a known library; includes start at the root"
                elif "/" in header and not header.startswith(("sys/", "netinet/", "arpa/", "linux/", "bits/")):
                    yield f"{where}: <{header}> belongs to no known library: add it to THIRD_PARTY with the files that may use it"
    if len({w.split(":")[0] for w in cli_files}) > 1:
        yield f"{cli_files[1]}: CLI11 is included by more than one file ({', '.join(cli_files)})"


def link_arrows(tree):
    for name, text in tree.texts(".txt"):
        room = room_of(name)
        if room not in ARROWS or not name.endswith("CMakeLists.txt") or room in ("tests", "cli", "tools"):
            continue
        for library in re.findall(r"\bpaceline_(\w+)\b", re.sub(r"#.*", "", text)):
            target = LIBRARY_ROOM.get(library, library)
            if target in ARROWS and target != room and target not in ARROWS[room]:
                yield f"{name}: {room}/ may not link paceline_{library}"


def named_by_cmake(tree):
    """Every file that a CMakeLists.txt names, relative to the root."""
    named = set()
    for name, text in tree.texts(".txt"):
        if name.endswith("CMakeLists.txt"):
            folder = os.path.dirname(name)
            for word in re.findall(r"[^\s()\"]+\.(?:cc|cu|proto|py|sh)\b", re.sub(r"#.*", "", text)):
                word = word.replace("${CMAKE_CURRENT_SOURCE_DIR}/", "")
                path = word.split("}/", 1)[1] if word.startswith("${CMAKE_SOURCE_DIR}/") else os.path.join(folder, word)
                named.add(os.path.normpath(path))
    return named


def orphans(tree):
    named = named_by_cmake(tree)
    for name in tree.files:
        is_source = name.endswith((".cc", ".cu", ".proto")) or name.startswith("tests/") and re.search(r"_test\.(py|sh)$", name)
        if is_source and not FOREIGN.match(name) and name not in named:
            yield f"{name}: named by no CMakeLists.txt, so nothing builds or runs it"


def openings(tree):
    for name, text in tree.texts(".proto", *SOURCE):
        # A .cc may leave the word to its own header, a test to the header it mirrors.
        own = re.sub(r"^tests/", "", re.sub(r"(_test)?\.cc$", ".h", name))
        spoken_for = name.endswith(".cc") and own in tree.files and text.startswith(f'#include "{own}"')
        if not spoken_for and not re.match(r"// \S.{8,}", text):
            yield f"{name}:1: the first line is not a comment that says what the file is for"
        # A fragment stands inside the one file that includes it, and says so at its top.
        opening = re.sub(r"\n// ", " ", text[:600])
        fragment = re.match(r"// [^\n]*Included by one\b", opening)
        if name.endswith(".h") and "#pragma once" not in text and not fragment:
            yield f"{name}: no #pragma once"


def lines(tree):
    for name, text in tree.texts():
        for number, line in enumerate(text.splitlines(), 1):
            # A table row or a long literal cannot be broken, and Python's data lines read better whole.
            unbreakable = name.endswith(".py") or name.endswith(".md") and line.lstrip().startswith("|")
            columns = DOCUMENT_COLUMNS if name.endswith(".md") else COLUMNS
            if len(line) > columns and not unbreakable and '"' not in line:
                yield f"{name}:{number}: {len(line)} columns, at most {columns}"
            if REMINDER.search(line):
                yield f"{name}:{number}: a reminder was left behind: {line.strip()[:80]}"
            if MACHINE_PATH.search(line):
                yield f"{name}:{number}: a path of one machine: {line.strip()[:80]}"
        if text and not text.endswith("\n"):
            yield f"{name}: no newline at the end"


def anchors(text):
    """The anchors of a document's headings, as GitHub makes them."""
    for heading in re.findall(r"^#+ (.*)$", text, re.M):
        yield re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def documents(tree):
    folders = {str(p) for name in tree.files for p in pathlib.PurePosixPath(name).parents}
    for name, text in tree.texts(".md"):
        text = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
        for target in re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", text):
            if re.match(r"[a-z]+:", target):
                continue
            file, _, anchor = target.partition("#")
            path = os.path.normpath(os.path.join(os.path.dirname(name), file)) if file else name
            if path not in tree.files and path not in folders:
                yield f"{name}: link to {target}, which is not there"
            elif anchor and path.endswith(".md") and anchor not in anchors(tree.files[path]):
                yield f"{name}: link to {target}: {path} has no such heading"
        # Names of our files in backquotes: `transport/tcp.cc`, `coordinator/engine.{h,cc}`.
        for quoted in re.findall(r"`((?:%s|proto|docs|deploy|cmake)/[\w/.{},-]+)`" % "|".join(ARROWS), text):
            stems = re.fullmatch(r"(.*)\{(.*)\}(.*)", quoted)
            for path in [stems[1] + middle + stems[3] for middle in stems[2].split(",")] if stems else [quoted]:
                if path.rstrip("/") not in tree.files and path.rstrip("/") not in folders:
                    yield f"{name}: names `{path}`, which is not there"


def specified(tree):
    """Comments that send a reader to a heading of the specification send them to one that is there."""
    headings = set(re.findall(r"^## (.*)$", tree.files["docs/NUMERICS.md"], re.M))
    for name, text in tree.texts(*SOURCE):
        prose = re.sub(r"\n\s*// ?", " ", text)
        for named in re.findall(r"\bNUMERICS(?:\.md)?[,:] ([A-Z][\w -]*(?:, [A-Z][\w -]*)*)", prose):
            for heading in named.split(", "):
                if heading.strip() not in headings:
                    yield f"{name}: names NUMERICS, {heading.strip()}: docs/NUMERICS.md has no such heading"


RULES = [include_arrows, link_arrows, orphans, openings, lines, documents, specified]


def findings(root):
    tree = Tree(root)
    return [(rule.__name__, finding) for rule in RULES for finding in rule(tree)]


# What the self-test plants: rule, file, text put at the end of it (a new file where there is none).
PLANTED = [
    ("include_arrows", "transport/link.h", '#include "kernels/kernels.h"\n'),
    ("include_arrows", "kernels/kernels.h", '#include "transport/link.h"\n'),
    ("include_arrows", "coordinator/tokenizer.h", '#include "kernels/kernels.h"\n'),
    ("include_arrows", "coordinator/tokenizer.h", '#include "model/config.h"\n'),
    ("include_arrows", "coordinator/tokenizer.h", '#include "transport/link.h"\n'),
    ("include_arrows", "coordinator/tokenizer.h", '#include "worker/trunk.h"\n'),
    ("include_arrows", "base/ids.h", '#include "base/no_such_file.h"\n'),
    ("include_arrows", "model/config.h", '#include "worker/trunk.h"\n'),
    ("include_arrows", "coordinator/tokenizer.h", '#include "paceline/node/v1/node.pb.h"\n'),
    ("include_arrows", "model/model_service.h", '// A file with a deceptive name.\n#pragma once\n#include <grpcpp/grpcpp.h>\n'),
    ("include_arrows", "transport/tcp.cc", "#include <ucp/api/ucp.h>\n"),
    ("include_arrows", "kernels/select.cc", "#include <cuda_runtime.h>\n"),
    ("include_arrows", "worker/trunk.cc", "#include <CLI/CLI.hpp>\n"),
    ("include_arrows", "worker/trunk.cc", "#include <boost/asio.hpp>\n"),
    ("link_arrows", "transport/CMakeLists.txt", "target_link_libraries(paceline_transport PUBLIC paceline_kernels)\n"),
    ("link_arrows", "coordinator/CMakeLists.txt", "target_link_libraries(x PUBLIC paceline_model)\n"),
    ("orphans", "base/orphan.cc", "// A source that nothing builds.\n"),
    ("orphans", "tests/house/forgotten_test.py", '"""A test that nothing runs."""\n'),
    ("openings", "base/unopened.h", "#pragma once\n"),
    ("lines", "base/ids.h", "// " + "x" * COLUMNS + "\n"),
    ("lines", "base/ids.h", "// TO" "DO: later\n"),
    ("lines", "base/ids.h", '// see "/ho' 'me/someone/notes"\n'),
    ("documents", "README.md", "[gone](docs/GONE.md)\n"),
    ("documents", "README.md", "[gone](docs/ARCHITECTURE.md#no-such-heading)\n"),
    ("documents", "docs/ARCHITECTURE.md", "`base/gone.h`\n"),
    ("specified", "base/ids.h", "// NUMERICS: Norms, No\n// such heading.\n"),
]


def self_test():
    before = set(findings(ROOT))
    missed = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder, "tree")
        # The large data files stay out; only names that documents link to would miss them.
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*SKIPPED_FOLDERS, "*.safetensors"))
        for rule, name, text in PLANTED:
            path = copy / name
            original = path.read_text(encoding="utf-8") if path.exists() else None
            path.write_text((original or "") + text, encoding="utf-8")
            new = [f for r, f in set(findings(copy)) - before if r == rule and name in f]
            if original is None:
                path.unlink()
            else:
                path.write_text(original, encoding="utf-8")
            if not new:
                missed += 1
            print(f"{'found ' if new else 'MISSED'} {name}: {text.strip().splitlines()[-1][:70]}")
    print(f"{len(PLANTED) - missed} planted errors found, {missed} missed")
    return 1 if missed else 0


def main():
    if sys.argv[1:] == ["--self-test"]:
        return self_test()
    found = findings(sys.argv[1] if len(sys.argv) > 1 else ROOT)
    for rule, finding in found:
        print(f"{finding}  [{rule}]")
    print(f"{len(found)} findings")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
