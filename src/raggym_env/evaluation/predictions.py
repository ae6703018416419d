"""Read predictions files: answers without episodes, in the forms that the official evaluation scripts take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from raggym_env.data.files import json_document, json_records
from raggym_env.errors import MalformedData
from raggym_env.evaluation.scores import Prediction

__all__ = ["read_predictions"]


def read_predictions(path: Path) -> list[Prediction]:
    """Return the predictions of a file, plain or compressed, in one of three forms:

    - `{"answer": {ID: ANSWER, ...}, "sp": ..., "evidence": ...}`, the official form of HotpotQA and 2WikiMultihopQA,
      of which only the answers are read;
    - `{ID: ANSWER, ...}`, the form of SQuAD's script;
    - JSON lines or an array of `{"id": ID, "prediction": ANSWER}`, or of the episodes that `RecordEpisodes` writes.

    Raises:
        DataNotFound: The file does not exist.
        MalformedData: It has none of these forms, an answer is not a string, or a question has two predictions.
    """
    try:
        document = json_document(path)
    except MalformedData:
        # Lines, or not JSON at all, which the reader of lines reports with its line.
        return _of_rows(path)
    if not isinstance(document, dict) or "prediction" in document or "id" in document:
        return _of_rows(path)
    answers = document["answer"] if isinstance(document.get("answer"), dict) else document
    return [Prediction(identifier, _answer(path, identifier, answer)) for identifier, answer in answers.items()]


def _answer(path: Path, identifier: str, answer: Any) -> str:
    if isinstance(answer, str):
        return answer
    raise MalformedData(
        path,
        f"prediction of {identifier!r:.80}",
        f'an answer should be a string, found {answer!r:.80}. A file holds {{"answer": {{ID: ANSWER}}}}, '
        '{ID: ANSWER} or rows of {"id": ID, "prediction": ANSWER}',
    )


def _of_rows(path: Path) -> list[Prediction]:
    # Any other field is ignored: a predictions file must not decide what failed or was searched.
    predictions: dict[str, Prediction] = {}
    for record in json_records(path):
        question = record.identifier("_id" if "_id" in record.fields and "id" not in record.fields else "id")
        if "prediction" not in record.fields and isinstance(record.fields.get("steps"), list):
            # An episode, of `RecordEpisodes`. As in a run, the last one of a question counts.
            answer = record.fields.get("answer")
            predictions[question] = Prediction(question, None if answer is None else record.checked("answer", answer))
            continue
        if question in predictions:
            raise record.error(f"id {question!r} occurred before")
        if "prediction" not in record.fields:
            raise record.error(f"field 'prediction' is missing; the record has {sorted(record.fields)}")
        predictions[question] = Prediction(question, record.checked("prediction", record.fields["prediction"]))
    return list(predictions.values())
