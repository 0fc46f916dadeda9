"""Reading and posting the admin's pages as a browser would."""

from __future__ import annotations

from typing import Any

from django.db.models import Model
from django.test import Client
from django.urls import reverse


def address(model: type[Model], page: str, *args: object) -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{page}", args=args)


def text_of(response: Any) -> str:
    """The page, which must have been shown."""
    assert response.status_code == 200, response.status_code
    return str(response.content.decode())


def search(client: Client, model: type[Model], term: str) -> list[Any]:
    """The rows that a search lists."""
    response = client.get(address(model, "changelist"), {"q": term})
    assert response.status_code == 200
    assert response.context is not None
    return list(response.context["cl"].result_list)


def filled_in(client: Client, url: str) -> dict[str, Any]:
    """What a browser would post from the page if nothing on it were edited."""
    response = client.get(url)
    assert response.status_code == 200
    assert response.context is not None
    data: dict[str, Any] = {}
    forms = [response.context["adminform"].form]
    for inline in response.context["inline_admin_formsets"]:
        forms += [inline.formset.management_form, *inline.formset.forms]
    for form in forms:
        for bound in form:
            value = bound.value()
            if value is True:
                data[bound.html_name] = "on"
            elif value is not None and value is not False:
                data[bound.html_name] = (
                    [str(getattr(one, "pk", one)) for one in value]
                    if isinstance(value, list | tuple)
                    else str(value)
                )
    return data


def post_edited(client: Client, url: str, **edits: Any) -> Any:
    """Post the page with these fields edited; the answer to the post itself."""
    return client.post(url, {**filled_in(client, url), **edits})


def act(client: Client, model: type[Model], action: str, *rows: Model, reason: str = "") -> str:
    """Choose an action for rows of a list; the page that follows."""
    data = {
        "action": action,
        "_selected_action": [str(row.pk) for row in rows],
        "reason": reason,
    }
    return text_of(client.post(address(model, "changelist"), data, follow=True))


def saved(response: Any) -> None:
    """Assert that a post was taken: the admin answers with a redirect."""
    if response.status_code == 302:
        return
    context = getattr(response, "context", None)
    raise AssertionError(context["errors"] if context else response.status_code)
