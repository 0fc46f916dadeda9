"""The project round the applications: settings, URLs, routing. Nobody imports it."""
