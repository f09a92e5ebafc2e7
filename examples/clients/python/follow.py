#!/usr/bin/env python3
"""Appends every event of a Sidecar to FOLDER/events.jsonl, one JSON object a line, and resumes where it was killed.

    pip install requests sseclient-py
    python3 follow.py [URL] [FOLDER]
"""

import json
import os
import random
import sys
import time

import requests
import sseclient

ATTEMPTS_MAX = 10  # in a row that bring nothing new
CONNECT_SECONDS = 10
SILENCE_SECONDS = 45  # Sidecar sends a comment after 15 s without an event, so this is a dead connection.
SAVE_SECONDS = 1


class Output:
    """events.jsonl, and position.json: the log, the last event's id, and the length of events.jsonl then.

    The position is written after the events. A kill in between leaves events that it does not know; they are cut off at the
    next start, and come again. So each event is in the file once.
    """

    def __init__(self, folder):
        os.makedirs(folder, exist_ok=True)
        self.path = os.path.join(folder, "position.json")
        try:
            with open(self.path) as file:
                self.position = json.load(file)
        except FileNotFoundError:
            self.position = {"log": None, "id": None, "bytes": 0}
        self.events = open(os.path.join(folder, "events.jsonl"), "ab")
        if self.events.tell() < self.position["bytes"]:
            sys.exit(f"{self.path} expects more bytes than events.jsonl has: remove both to start again")
        self.events.truncate(self.position["bytes"])
        self.saved = time.monotonic()

    def append(self, id, data):
        # The data is JSON, so a line break in it is between tokens.
        line = f'{{"id":{id},"data":{data}}}'.replace("\n", " ").encode() + b"\n"
        self.events.write(line)
        self.position["id"] = int(id)
        self.position["bytes"] += len(line)

    def flush(self):
        self.events.flush()
        if time.monotonic() - self.saved > SAVE_SECONDS:
            self.save()

    def save(self):
        self.events.flush()
        os.fsync(self.events.fileno())
        # A new file that replaces the old one: a reader finds one of them, and never half of one.
        with open(self.path + ".new", "w") as file:
            json.dump(self.position, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(self.path + ".new", self.path)
        self.saved = time.monotonic()


class Refused(Exception):
    """The request is wrong; asking again would not help."""


def follow(url, output):
    """Reads one connection to its end. Returns whether more can come."""
    position = output.position
    # With the log's name, ids of another log (a node set up again) are an error instead of a wrong history.
    parameters = {"start_from": 0} if position["id"] is None else {"log": position["log"]}
    headers = {"Accept": "text/event-stream"}
    if position["id"] is not None:
        headers["Last-Event-ID"] = str(position["id"])
    timeout = (CONNECT_SECONDS, SILENCE_SECONDS)
    with requests.get(url, params=parameters, headers=headers, stream=True, timeout=timeout) as response:
        if response.status_code == 204:
            return False  # Nothing is left of what was asked for, which ends with until=N.
        if 400 <= response.status_code < 500 and response.status_code not in (408, 429):
            raise Refused(f"{response.status_code}: {response.text.strip()}")
        response.raise_for_status()
        position["log"] = response.headers.get("sidecar-log")
        for event in sseclient.SSEClient(chunks(response, output)).events():
            if event.id is not None:  # The API version has none.
                output.append(event.id, event.data)
    return True


def chunks(response, output):
    """The body as it comes: sseclient alone would read 128 bytes at a time, and does not show keep-alives."""
    for chunk in response.iter_content(chunk_size=None):
        yield chunk
        # The events in it are handled, and nothing may come for long.
        output.flush()


def main():
    url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:19999/events"
    output = Output(sys.argv[2] if len(sys.argv) > 2 else "events")
    failures = 0
    while failures < ATTEMPTS_MAX:
        before = output.position["id"]
        try:
            if not follow(url, output):
                return
            reason = "the stream ended"
        except requests.RequestException as error:
            reason = error
        finally:
            output.save()
        failures = 0 if output.position["id"] != before else failures + 1
        # Growing pauses, of random length so that many clients do not come back at the same moment.
        pause = min(30, 2**failures) * random.uniform(0.5, 1)
        print(f"{reason}; connecting again in {pause:.1f} s", file=sys.stderr)
        time.sleep(pause)
    sys.exit(f"no event after {ATTEMPTS_MAX} attempts: is there a Sidecar at {url}?")


try:
    main()
except Refused as error:
    sys.exit(f"refused: {error}")
except KeyboardInterrupt:
    pass
