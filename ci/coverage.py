#!/usr/bin/env python3
"""Share of the lines of core, backend_cpu, formats and cli that the tests ran, from gcov's counts.

usage: coverage.py SOURCE_ROOT BUILD_DIRECTORY

Prints one line per folder and the files that are covered least. Code for instruction sets that this machine
does not have cannot be run here, so it counts as not covered.
"""
import collections
import json
import pathlib
import subprocess
import sys
import tempfile

FOLDERS = ("core", "backend_cpu", "formats", "cli")
LOWEST = 8  # files that are printed


def line_counts(root, build):
    """{file relative to root: {line: times it ran}} of the project's own folders."""
    notes = [str(path.resolve()) for path in sorted(build.rglob("*.gcda"))]
    counts = collections.defaultdict(collections.Counter)
    with tempfile.TemporaryDirectory() as scratch:
        for start in range(0, len(notes), 64):
            output = subprocess.run(["gcov", "--stdout", "--json-format", *notes[start:start + 64]],
                                    cwd=scratch, capture_output=True, text=True, check=True).stdout
            for document in output.splitlines():
                data = json.loads(document)
                for file in data["files"]:
                    path = (pathlib.Path(data["current_working_directory"]) / file["file"]).resolve()
                    if not path.is_relative_to(root) or path.is_relative_to(build):
                        continue
                    name = str(path.relative_to(root))
                    if name.split("/")[0] in FOLDERS:
                        for line in file["lines"]:
                            counts[name][line["line_number"]] += line["count"]
    return counts


def share(lines):
    return 100 * sum(count > 0 for count in lines) / max(1, len(lines))


def main():
    root, build = (pathlib.Path(argument).resolve() for argument in sys.argv[1:3])
    counts = line_counts(root, build)
    if not counts:
        sys.exit("coverage: no counts; the tests were not run, or not built with -Db_coverage=true")
    parts, everything = [], []
    for folder in FOLDERS:
        lines = [n for name in counts if name.startswith(folder + "/") for n in counts[name].values()]
        everything += lines
        parts.append(f"{folder} {share(lines):.1f} %")
    files = sorted((share(list(lines.values())), name) for name, lines in counts.items())
    for percent, name in files[:LOWEST]:
        print(f"{percent:6.1f} %  {name}")
    print(f"coverage: {share(everything):.1f} % of {len(everything)} lines ({', '.join(parts)})")


if __name__ == "__main__":
    main()
