"""The service: many streams of one site, scored together, with health, alarms, events and outputs. docs/how-to/service.md."""
