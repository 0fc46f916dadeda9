"""Settings: `development`, `production` and `test` each start from `base`."""
