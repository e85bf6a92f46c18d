"""Values and rules of people, stored faces and groups of unknown ones."""
