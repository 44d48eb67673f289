#!/usr/bin/python3
"""Compares OCI bundles' config.json files with the OCI runtime specification's
JSON schema: `oci/schema.py FILE...`.

The schema is Debian's (golang-github-opencontainers-specs-dev), the validator is
python3-jsonschema. Exit code: 0 all valid, 1 one is not (each violation is said),
2 the schema or the validator is missing.
"""

import json
import os
import sys

SCHEMA = "/usr/share/gocode/src/github.com/opencontainers/runtime-spec/schema"


def main():
    try:
        import jsonschema

        with open(os.path.join(SCHEMA, "config-schema.json")) as file:
            schema = json.load(file)
    except (ImportError, OSError) as error:
        print(f"schema.py: {error}", file=sys.stderr)
        return 2
    # The parts refer to one another by file name.
    where = jsonschema.RefResolver(f"file://{SCHEMA}/config-schema.json", schema)
    validator = jsonschema.Draft4Validator(schema, resolver=where)
    failed = not sys.argv[1:]
    for path in sys.argv[1:]:
        with open(path) as file:
            config = json.load(file)
        for error in validator.iter_errors(config):
            failed = True
            place = "/".join(map(str, error.absolute_path)) or "(top)"
            print(f"{path}: {place}: {error.message[:300]}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
