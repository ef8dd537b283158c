"""What the JSON interface answers, as an OpenAPI document. Columns are described where tables are declared."""

from functools import cache
from typing import Any

from mediafm_assets.pages.catalogue import light
from mediafm_assets.pages.search import LONGEST_QUERY, MOST_HITS, MOST_TITLES
from resources.lake import TABLES

TYPES: dict[str, dict[str, Any]] = {
    "string": {"type": "string"},
    "int32": {"type": "integer"},
    "int64": {"type": "integer"},
    "float64": {"type": "number"},
    "bool": {"type": "boolean"},
    "timestamp": {"type": "string", "format": "date-time"},
    "list<string>": {"type": "array", "items": {"type": "string"}},
    "list<int32>": {"type": "array", "items": {"type": "integer"}},
    "list<int64>": {"type": "array", "items": {"type": "integer"}},
}
TITLE_ID = {"name": "title_id", "in": "path", "required": True, "schema": {"type": "string"}, "description": "A title."}


def _row_of(table: str, *more: str) -> dict[str, Any]:
    """A row as the catalogue gives it, with more of the table's columns. A table that is not declared gives no rows."""
    if table not in TABLES:
        return {"type": "object"}
    properties = {}
    for name in (*more, *light(table)):
        column = TABLES[table].column(name)
        kind = TYPES.get(column.type, {"type": "array", "items": {"type": "object"}})
        if column.nullable:
            kind = {**kind, "type": [kind["type"], "null"]}
        properties[column.name] = {**kind, "description": column.description}
    return {"type": "object", "description": TABLES[table].description, "properties": properties}


def _query(name: str, what: str, schema: dict[str, Any], required: bool = False) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": required, "description": what, "schema": schema}


def _get(summary: str, answer: dict[str, Any], *parameters: dict[str, Any]) -> dict[str, Any]:
    failed = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}
    return {
        "get": {
            "summary": summary,
            "parameters": list(parameters),
            "responses": {
                "200": {"description": "The answer.", "content": {"application/json": {"schema": answer}}},
                "400": {"description": "The question cannot be answered as it is.", **failed},
                "404": {"description": "There is no such thing.", **failed},
                "503": {"description": "Something that the answer needs cannot be had.", **failed},
            },
        }
    }


def _list_of(name: str) -> dict[str, Any]:
    return {"type": "array", "items": {"$ref": f"#/components/schemas/{name}"}}


@cache
def document() -> dict[str, Any]:
    """The OpenAPI 3.1 document of everything under /api/."""
    number = {"type": "number"}
    text = {"type": "string"}
    k = _query("k", "How many hits.", {"type": "integer", "minimum": 1, "maximum": MOST_HITS, "default": 10})
    a_shot = {"type": "string", "pattern": "^[^:]+:[0-9]+$", "examples": ["night-train:12"]}
    hit = {
        "type": "object",
        "properties": {
            "title_id": text,
            "title": text,
            "shot_index": {"type": "integer"},
            "start_s": number,
            "end_s": number,
            "text": {**text, "description": "The words said in the shot."},
            "score": {**number, "description": "Sum of 1 / (60 + rank) over the ways in which it was found."},
            "matches": {
                "type": "array",
                "description": "Each way in which it was found: the modality that carried it, rank, cosine as score, "
                "and what each modality adds to that.",
                "items": {
                    "type": "object",
                    "properties": {
                        "modality": text,
                        "rank": {"type": "integer"},
                        "score": number,
                        "parts": {"type": "object", "additionalProperties": number},
                    },
                },
            },
        },
    }
    parts = ("scenes", "tags", "ad_breaks", "highlights")
    view = {
        "type": "object",
        "properties": {
            "title": {"$ref": "#/components/schemas/titles"},
            "shots": _list_of("shots"),
            **{part: _list_of(part) for part in parts},
            "neighbours": _list_of("title_neighbours"),
            "cosines": {
                "type": "object",
                "description": "By representation, the cosine of each shot and the next.",
                "additionalProperties": {"type": "array", "items": number},
            },
            "failure": {"description": "Its row in `failures`, or null.", "type": ["object", "null"]},
        },
    }
    found = {"type": "object", "properties": {"shots": _list_of("Hit"), "titles": {"type": "array"}}}
    rows = {table: _row_of(table) for table in ("shots", *parts, "title_neighbours", "encoder")}
    rows["titles"] = _row_of("titles", "title_id", "data_version")
    rows["shots"]["properties"]["text"] = {**text, "description": TABLES["text_embeddings"].column("text").description}
    in_use = {"type": "boolean", "description": "Whether it is the one in use."}
    rows["encoder"]["properties"]["promoted"] = in_use
    error = {"type": "object", "properties": {"error": {**text, "description": "One sentence."}}}
    page = _query("page", "Which hundred, from 1.", {"type": "integer", "minimum": 1, "default": 1})
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "MediaFM",
            "version": "1",
            "description": "Titles, shots and search over a lake of shot embeddings. It only reads.",
        },
        "paths": {
            "/api/titles": _get(
                "The titles, newest first.",
                {"type": "object", "properties": {"count": {"type": "integer"}, "titles": _list_of("titles")}},
                page,
            ),
            "/api/titles/{title_id}": _get("All that is known of a title.", view, TITLE_ID),
            "/api/search": _get(
                "Shots by words, by a shot that they should be like, or by both.",
                found,
                _query("q", "Some words.", {"type": "string", "maxLength": LONGEST_QUERY}),
                _query("like", "A shot as TITLE:SHOT.", a_shot),
                _query(
                    "title",
                    "Only in this title; may be given again.",
                    {"type": "array", "items": text, "maxItems": MOST_TITLES},
                ),
                k,
            ),
            "/api/encoders": _get(
                "The encoder generations, newest first.", {"type": "array", "items": rows["encoder"]}
            ),
            "/api/compare": _get(
                "The shots most like one, by the contextual embeddings of each encoder generation named.",
                {"type": "array", "items": {"type": "object", "properties": {"shots": _list_of("Hit")}}},
                _query("like", "A shot as TITLE:SHOT.", a_shot, required=True),
                _query("encoder", "An encoder version; may be given again.", {"type": "array", "items": text}),
                k,
            ),
        },
        "components": {"schemas": {**rows, "Hit": hit, "Error": error}},
    }
