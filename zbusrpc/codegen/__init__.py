"""Code generation: from the schema of a service to clients in other languages and to documents."""
