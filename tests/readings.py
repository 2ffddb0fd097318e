"""The readings of forms that many corpora have, by the names that they are known by."""

from mapjob.corpus.reading import Reading

SIDES = ("chosen", "rejected")
READINGS = {
    "trl": Reading(("prompt",), SIDES),
    "hh": Reading((), SIDES),
    "sharegpt": Reading(("conversations",), SIDES),
    "openrlhf": Reading((), SIDES),
    "ultrafeedback": Reading(("prompt",), SIDES),
    "candidates": Reading(("prompt",), responses="responses"),
}
