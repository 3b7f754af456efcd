"""Do the examples of a document conform to its schemas? Usage: examples.py DOCUMENT..."""

import json
import sys

import jsonschema_rs


def media_of(document):
    """Each body of each operation, with its place."""
    for path, item in document["paths"].items():
        for method, operation in item.items():
            place = f"{method.upper()} {path}"
            for parameter in operation["parameters"]:
                yield f"{place} {parameter['name']}", parameter
            bodies = {"request": operation.get("requestBody", {}), **operation["responses"]}
            for name, body in bodies.items():
                for kind, media in body.get("content", {}).items():
                    yield f"{place} {name} {kind}", media
    for name, answer in document["components"]["responses"].items():
        for kind, media in answer.get("content", {}).items():
            yield f"{name} {kind}", media


def faults(document):
    for place, media in media_of(document):
        schema = {**media["schema"], "components": document["components"]}
        validator = jsonschema_rs.Draft202012Validator(schema, validate_formats=True)
        for error in validator.iter_errors(media["example"]):
            yield f"{place}: {error.message} at {list(error.instance_path)}"


def main():
    found = []
    for path in sys.argv[1:]:
        with open(path) as file:
            found += [f"{path}: {fault}" for fault in faults(json.load(file))]
    sys.exit("\n".join(found) or 0)


main()
