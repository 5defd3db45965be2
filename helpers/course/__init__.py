"""What a course needs around its lessons: claims, exercises and their checks, figures, tables, views, experiments."""
