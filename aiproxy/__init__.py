"""The project: settings, doors, supervision."""
