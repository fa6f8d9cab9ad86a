"""A Flask application with a catalogue in memory: it answers pages of it, and takes in orders as JSON."""

from __future__ import annotations

import os
import zlib
from typing import Any

from flask import Flask, jsonify, request
from protocol import tidy

app = Flask(__name__)
_ITEMS = [
    {"id": nth, "name": f"item {nth:06d}", "price": nth % 977 / 10, "tags": [f"tag {nth % 13}", f"tag {nth % 17}"]}
    for nth in range(20_000)
]


@app.get("/pid")
def pid() -> Any:
    """The process that answers."""
    return jsonify(os.getpid())


@app.get("/items/<int:first>")
def items(first: int) -> Any:
    """Two hundred items."""
    return jsonify(_ITEMS[first : first + 200])


@app.get("/price/<int:item>")
def price(item: int) -> Any:
    """One price."""
    return jsonify(_ITEMS[item]["price"])


@app.post("/orders")
def orders() -> Any:
    """The sum of an order of many lines."""
    lines = request.get_json()["lines"]
    by_item: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        by_item.setdefault(f"item {line['item']}", []).append({**line, "price": _ITEMS[line["item"]]["price"]})
    return jsonify(round(sum(line["price"] * line["count"] for each in by_item.values() for line in each), 2))


@app.get("/check")
def check() -> Any:
    """What the catalogue holds, in a number."""
    return jsonify(zlib.crc32(repr(_ITEMS).encode()))


@app.post("/tidy")
def tidied() -> Any:
    """What people do today."""
    tidy()
    return jsonify(None)
