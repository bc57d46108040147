"""The protobuf messages of Sparkplug B 3.0, built here from their field numbers: no generated file, no compiler.

A receiver of protobuf skips the fields that it does not declare, so only what ingest reads is declared in full; a DataSet and a Template are
declared as bytes, because no value of theirs is a measurement and their depth is then nobody's problem.

References
----------
Sparkplug 3.0.0, chapter 6 (payloads); ISO/IEC 20237:2023.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_Field = descriptor_pb2.FieldDescriptorProto
_UINT32, _UINT64, _BOOL = _Field.TYPE_UINT32, _Field.TYPE_UINT64, _Field.TYPE_BOOL
_FLOAT, _DOUBLE, _STRING, _BYTES = _Field.TYPE_FLOAT, _Field.TYPE_DOUBLE, _Field.TYPE_STRING, _Field.TYPE_BYTES

ABSENT = 2**64 - 1
"""What the plain payloads read where a metric has no alias, or no timestamp."""


class DataType(IntEnum):
    """Type of a metric's value, as its birth tells it."""

    UNKNOWN = 0
    INT8 = 1
    INT16 = 2
    INT32 = 3
    INT64 = 4
    UINT8 = 5
    UINT16 = 6
    UINT32 = 7
    UINT64 = 8
    FLOAT = 9
    DOUBLE = 10
    BOOLEAN = 11
    STRING = 12
    DATETIME = 13
    TEXT = 14
    UUID = 15
    DATASET = 16
    BYTES = 17
    FILE = 18
    TEMPLATE = 19
    PROPERTY_SET = 20
    PROPERTY_SET_LIST = 21


class _File:
    """Builds one file of messages; every field is optional unless it is said to repeat."""

    def __init__(self, package: str) -> None:
        self.package = package
        self.proto = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto2")

    def message(self, name: str, fields: dict[str, tuple[Any, ...]], oneof: tuple[str, ...] = ()) -> None:
        """Add a message: ``{field: (number, type or name of a message, "repeated"?)}``; the fields of `oneof` exclude each other."""
        message = self.proto.message_type.add(name=name)
        if oneof:
            message.oneof_decl.add(name="value")
        for field_name, (number, kind, *more) in fields.items():
            field = message.field.add(name=field_name, number=number, label=_Field.LABEL_OPTIONAL)
            if isinstance(kind, str):
                field.type, field.type_name = _Field.TYPE_MESSAGE, f".{self.package}.{kind}"
            else:
                field.type = kind
            if more == ["repeated"]:
                field.label = _Field.LABEL_REPEATED
            elif more:
                field.default_value = more[0]
            if field_name in oneof:
                field.oneof_index = 0

    def payload_class(self) -> Any:
        """Return the class of the message ``Payload``."""
        pool = descriptor_pool.DescriptorPool()
        pool.AddSerializedFile(self.proto.SerializeToString())
        return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{self.package}.Payload"))


def _payload() -> Any:
    file = _File("underway_sparkplug")
    file.message(
        "PropertySet",
        {"keys": (1, _STRING, "repeated"), "values": (2, "PropertyValue", "repeated")},
    )
    property_values = {
        "int_value": (3, _UINT32),
        "long_value": (4, _UINT64),
        "float_value": (5, _FLOAT),
        "double_value": (6, _DOUBLE),
        "boolean_value": (7, _BOOL),
        "string_value": (8, _STRING),
    }
    file.message("PropertyValue", {"type": (1, _UINT32), "is_null": (2, _BOOL), **property_values}, tuple(property_values))
    metric_values = {
        "int_value": (10, _UINT32),
        "long_value": (11, _UINT64),
        "float_value": (12, _FLOAT),
        "double_value": (13, _DOUBLE),
        "boolean_value": (14, _BOOL),
        "string_value": (15, _STRING),
        "bytes_value": (16, _BYTES),
        "dataset_value": (17, _BYTES),
        "template_value": (18, _BYTES),
        "extension_value": (19, _BYTES),
    }
    file.message(
        "Metric",
        {
            "name": (1, _STRING),
            "alias": (2, _UINT64),
            "timestamp": (3, _UINT64),
            "datatype": (4, _UINT32),
            "is_historical": (5, _BOOL),
            "is_transient": (6, _BOOL),
            "is_null": (7, _BOOL),
            "metadata": (8, _BYTES),
            "properties": (9, "PropertySet"),
            **metric_values,
        },
        tuple(metric_values),
    )
    file.message(
        "Payload",
        {
            "timestamp": (1, _UINT64),
            "metrics": (2, "Metric", "repeated"),
            "seq": (3, _UINT64),
            "uuid": (4, _STRING),
            "body": (5, _BYTES),
        },
    )
    return file.payload_class()


def _plain_payload(name: str, told_by: dict[str, tuple[Any, ...]]) -> Any:
    """Return a class that declares only what the usual data message has: who, when, and a floating-point value.

    What a metric lacks reads as a value that no device sends (NaN, `ABSENT`), so that no presence need be asked; what a message has beyond
    these fields is unknown to the class, so that its size without unknown fields tells whether there was more.
    """
    file = _File(f"underway_sparkplug_{name}")
    values = {"float_value": (12, _FLOAT, "nan"), "double_value": (13, _DOUBLE, "nan")}
    file.message("Metric", {**told_by, "timestamp": (3, _UINT64, str(ABSENT)), **values})
    file.message("Payload", {"timestamp": (1, _UINT64, str(ABSENT)), "metrics": (2, "Metric", "repeated"), "seq": (3, _UINT64)})
    return file.payload_class()


def _number_payload() -> Any:
    """Return a class for data messages of numbers alone, told by name or alias, of any age."""
    file = _File("underway_sparkplug_number")
    values = {
        "int_value": (10, _UINT32),
        "long_value": (11, _UINT64),
        "float_value": (12, _FLOAT),
        "double_value": (13, _DOUBLE),
        "boolean_value": (14, _BOOL),
    }
    file.message(
        "Metric",
        {
            "name": (1, _STRING),
            "alias": (2, _UINT64, str(ABSENT)),
            "timestamp": (3, _UINT64, str(ABSENT)),
            "datatype": (4, _UINT32),
            "is_historical": (5, _BOOL),
            **values,
        },
        tuple(values),
    )
    file.message("Payload", {"timestamp": (1, _UINT64, str(ABSENT)), "metrics": (2, "Metric", "repeated"), "seq": (3, _UINT64)})
    return file.payload_class()


Payload: Any = _payload()
"""The whole message."""
AliasedPayload: Any = _plain_payload("aliased", {"alias": (2, _UINT64, str(ABSENT))})
"""A message of floating-point metrics that are told by alias alone."""
TypedPayload: Any = _plain_payload("typed", {"alias": (2, _UINT64, str(ABSENT)), "datatype": (4, _UINT32)})
"""The same with the type of each metric, which a sender may add."""
NamedPayload: Any = _plain_payload("named", {"name": (1, _STRING)})
"""A message of floating-point metrics that are told by name alone."""
NumberPayload: Any = _number_payload()
"""A message of numbers."""
