"""The audit trail in the admin: browsed, searched, never edited."""

from __future__ import annotations

import json

from django.contrib import admin
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from bank.admin.base import ReadOnlyAdmin
from bank.models import AuditRecord


@admin.register(AuditRecord)
class AuditRecordAdmin(ReadOnlyAdmin):
    """Who changed what, when, from which value to which."""

    list_display = ("recorded_at", "actor", "action", "model", "label", "reason")
    list_filter = ("action", "model", "recorded_at")
    search_fields = ("actor", "label", "reason", "object_key")
    date_hierarchy = "recorded_at"
    fields = (
        "recorded_at",
        "actor",
        "action",
        "model",
        "object_key",
        "label",
        "reason",
        "shown_changes",
    )
    readonly_fields = fields

    @admin.display(description="changes")
    def shown_changes(self, record: AuditRecord) -> SafeString:
        """A line for each field: its name, the old value, the new one."""
        rows = format_html_join(
            "",
            "<tr><td>{}</td><td>{}</td><td>{}</td></tr>",
            (
                (name.replace("_", " "), _readable(old), _readable(new))
                for name, (old, new) in sorted(record.changes.items())
            ),
        )
        return format_html(
            "<table><tr><th>field</th><th>old value</th><th>new value</th></tr>{}</table>", rows
        )


def _readable(value: object) -> str:
    if value is None or value == "":
        return "-"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
