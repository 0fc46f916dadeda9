"""HTTP addresses: the admin where the web role is played, and what machines ask."""

from django.conf import settings
from django.contrib import admin
from django.contrib.auth.models import User
from django.urls import URLPattern, URLResolver, path

from bankproject import views
from bankproject.operators import OperatorAdmin

urlpatterns: list[URLPattern | URLResolver] = [
    path("healthz", views.healthz, name="healthz"),
    path("readyz", views.readyz, name="readyz"),
]
if settings.METRICS:
    urlpatterns.append(path("metrics", views.metrics, name="metrics"))
if "web" in settings.ROLES:
    admin.site.unregister(User)
    admin.site.register(User, OperatorAdmin)
    admin.site.site_header = admin.site.site_title = "Tellerwire"
    urlpatterns.append(path("admin/", admin.site.urls))
