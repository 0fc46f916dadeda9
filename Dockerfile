# syntax=docker/dockerfile:1
# One image for every role: relay and web serve, the bank runs `manage.py runbank`.

FROM python:3.13-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PYTHONDONTWRITEBYTECODE=1
RUN python -m venv /opt/tellerwire
ENV PATH=/opt/tellerwire/bin:$PATH
COPY requirements.txt /build/
RUN pip install --require-hashes -r /build/requirements.txt
WORKDIR /srv/tellerwire
COPY . .
# These values serve to collect the static files only; none of them reaches the next stage.
RUN TELLERWIRE_ROLES=bank,web \
    TELLERWIRE_SECRET_KEY=collecting-static-files-only \
    TELLERWIRE_ALLOWED_HOSTS=localhost \
    TELLERWIRE_DATABASE_URL=sqlite:////nowhere \
    TELLERWIRE_STATIC_ROOT=/srv/static \
    DJANGO_SETTINGS_MODULE=bankproject.settings.production \
    python manage.py collectstatic --noinput

FROM python:3.13-slim
RUN groupadd --gid 10001 tellerwire \
    && useradd --uid 10001 --gid tellerwire --no-create-home --shell /usr/sbin/nologin tellerwire \
    && install --directory --owner tellerwire --group tellerwire --mode 0700 /var/lib/tellerwire \
    && install --directory --owner tellerwire --group tellerwire --mode 0755 /var/lib/tellerwire-public
COPY --from=build /opt/tellerwire /opt/tellerwire
COPY --from=build /srv /srv
ENV PATH=/opt/tellerwire/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    DJANGO_SETTINGS_MODULE=bankproject.settings.production \
    TELLERWIRE_DATA_DIR=/var/lib/tellerwire \
    TELLERWIRE_STATIC_ROOT=/srv/static
WORKDIR /srv/tellerwire
USER tellerwire
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=6s --start-period=20s --retries=3 \
    CMD ["python", "-m", "bankproject.healthcheck"]
# uvicorn with uvloop, websockets-sansio, no compression, bounded frames: see bankproject/serve.py.
CMD ["python", "-m", "bankproject.serve", "--host", "0.0.0.0", "--port", "8000"]
