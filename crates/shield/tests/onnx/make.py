#!/usr/bin/env python3
"""Writes the models that the tests of second opinions load: `pip install onnx numpy`, then `make.py FOLDER`.

`model.onnx` is a text classifier small enough to be read: each word of its vocabulary says how much of an order to a
reader, of secrecy and of sending things away is in it; the most of each in the window decides, so that padding thins
nothing. It is no detector anybody should use. The others are what a gate must refuse. Nothing in it is random.
"""

import json
import pathlib
import sys

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]

# How much of (an order, secrecy, sending away) is in a word.
TELLING = {
    "you": (0.4, 0.0, 0.0),
    "assistant": (0.6, 0.0, 0.0),
    "must": (0.8, 0.0, 0.0),
    "please": (0.6, 0.0, 0.0),
    "before": (0.5, 0.0, 0.0),
    "kindly": (0.8, 0.0, 0.0),
    "quietly": (0.2, 0.9, 0.0),
    "secretly": (0.2, 1.0, 0.0),
    "unmentioned": (0.0, 0.8, 0.0),
    "confidential": (0.0, 0.7, 0.2),
    "mention": (0.3, 0.5, 0.0),
    "pass": (0.2, 0.0, 0.7),
    "hand": (0.2, 0.0, 0.6),
    "relay": (0.2, 0.0, 0.9),
    "copy": (0.2, 0.0, 0.7),
    "ledger": (0.0, 0.0, 0.6),
    "mailbox": (0.0, 0.0, 0.7),
    "over": (0.0, 0.0, 0.3),
}
PLAIN = (
    "the an and or of to in on at for with from by is are was were be it its this that there then they we our "
    "their his her as but if when while after into out up down not no all some more most other new old good day "
    "week month year time order orders invoice meeting report weather rain sun wind cloud green quiet horse river "
    "field garden tree house road city bread cheese apple water coffee tea book page chapter story song music "
    "customer partner team office desk list table number price cost total paid open closed ready shipped arrived "
    "tomorrow today yesterday monday friday morning evening north south walk run sat ate read wrote said saw found"
).split()
# Pieces of words that are not in the vocabulary, so that a long word is many tokens and not one unknown.
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"

VOCABULARY = SPECIAL + list(TELLING) + PLAIN + list(LETTERS) + ["##" + c for c in LETTERS] + list(".,:;!?'\"-()/[]")


def tokenizer():
    assert len(set(VOCABULARY)) == len(VOCABULARY), "a word stands twice"
    ids = {word: number for number, word in enumerate(VOCABULARY)}
    added = [
        {"id": ids[word], "content": word, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False, "special": True}
        for word in SPECIAL
    ]
    single = [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
              {"SpecialToken": {"id": "[SEP]", "type_id": 0}}]
    special = {word: {"id": word, "ids": [ids[word]], "tokens": [word]} for word in ("[CLS]", "[SEP]")}
    return {
        "version": "1.0",
        # As they are often shipped: a tokenizer that cuts a text off, and one that pads it.
        "truncation": {"direction": "Right", "max_length": 64, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
                    "pad_type_id": 0, "pad_token": "[PAD]"},
        "added_tokens": added,
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
                       "strip_accents": None, "lowercase": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "TemplateProcessing", "single": single,
                           "pair": single + [{"Sequence": {"id": "B", "type_id": 1}}], "special_tokens": special},
        "decoder": None,
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": ids},
    }


def constant(name, array):
    return numpy_helper.from_array(np.asarray(array), name)


def number_input(name, shape=("batch", "tokens")):
    return helper.make_tensor_value_info(name, TensorProto.INT64, list(shape))


INPUTS = ["input_ids", "attention_mask", "token_type_ids"]


def model(inputs=None, weights=None, rows=None, extra=(), output=("logits", ["batch", 2]), positions=None):
    """The classifier, or one that differs in a part."""
    table = np.zeros((len(VOCABULARY), 3), np.float32)
    for word, told in TELLING.items():
        table[VOCABULARY.index(word)] = told
    # benign falls and attack rises with each of the three: an order alone is none, one to send something away is.
    weights = np.float32([[-4, 4], [-5, 5], [-5, 5]]) if weights is None else weights
    kept = {
        "table": table[:rows],
        "weights": weights,
        "bias": np.float32([5, -5]) if weights.shape[1] == 2 else np.float32([-5] * weights.shape[1]),
        "axis": np.int64([-1]),
    }
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["told"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "axis"], ["seen"]),
        helper.make_node("Mul", ["told", "seen"], ["heard"]),
    ]
    heard = "heard"
    if positions is not None:
        # As models with learned positions: there are so many, and no more.
        kept["positions"] = np.zeros((positions, 3), np.float32)
        nodes += [
            helper.make_node("CumSum", ["attention_mask", "second"], ["counted"]),
            helper.make_node("Sub", ["counted", "one"], ["places"]),
            helper.make_node("Gather", ["positions", "places"], ["placed"]),
            helper.make_node("Add", ["heard", "placed"], ["both"]),
        ]
        kept |= {"second": np.int64(1), "one": np.int64(1)}
        heard = "both"
    nodes += [
        helper.make_node("ReduceMax", [heard], ["most"], axes=[1], keepdims=0),
        helper.make_node("Gemm", ["most", "weights", "bias"], ["logits"]),
        *extra,
    ]
    inputs = [number_input(name) for name in INPUTS] if inputs is None else inputs
    outputs = [helper.make_tensor_value_info(output[0], TensorProto.FLOAT, list(output[1]))]
    graph = helper.make_graph(nodes, "classifier", inputs, outputs, [constant(n, a) for n, a in kept.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14), helper.make_opsetid("house", 1)],
                             ir_version=8, producer_name="make.py")


def external(made):
    """Weights in another file: what is there is not what was pinned."""
    for tensor in made.graph.initializer:
        if tensor.name == "table":
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            entry = tensor.external_data.add()
            entry.key, entry.value = "location", "../../../../etc/passwd"
    return made


def branching(made):
    """Weights in another file, named where one has to look for them: in a branch."""
    inner = external(model())
    shape = ["batch", 2]
    branch = helper.make_graph(
        [helper.make_node("Identity", ["table"], ["out"])], "branch", [],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, shape)],
        [tensor for tensor in inner.graph.initializer if tensor.name == "table"],
    )
    made.graph.initializer.append(constant("yes", np.bool_(True)))
    made.graph.node.append(helper.make_node("If", ["yes"], ["branched"], then_branch=branch, else_branch=branch))
    return made


def main(folder):
    folder = pathlib.Path(folder)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer(), indent=1) + "\n")
    nan = [helper.make_node("Log", ["logits"], ["l1"]), helper.make_node("Log", ["l1"], ["broken"])]
    made = {
        "model": model(),
        # One output, as models with a sigmoid have it, and no token types.
        "single": model(inputs=[number_input(n) for n in INPUTS[:2]], weights=np.float32([[4], [5], [5]]),
                        output=("logits", ["batch", 1])),
        "external": external(model()),
        "branching": branching(model()),
        "operator": model(extra=[helper.make_node("Launch", ["logits"], ["launched"], domain="house")]),
        "unknown": model(extra=[helper.make_node("RandomNormalLike", ["logits"], ["noise"])], output=("noise", ["batch", 2])),
        "inputs": model(inputs=[number_input(n) for n in [*INPUTS, "pixels"]]),
        "fixed": model(inputs=[number_input(n, (1, 128)) for n in INPUTS]),
        "tokens": model(extra=[helper.make_node("Identity", ["told"], ["per_token"])],
                        output=("per_token", ["batch", "tokens", 3])),
        "nan": model(extra=nan, output=("broken", ["batch", 2])),
        "short": model(rows=40),
        "positions": model(positions=64),
    }
    for name, proto in made.items():
        if name not in ("external", "branching", "operator"):
            checker.check_model(proto)
        (folder / f"{name}.onnx").write_bytes(proto.SerializeToString(deterministic=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
