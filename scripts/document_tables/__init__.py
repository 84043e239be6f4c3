"""The tables of the documents, a module a subject; each has TABLES: name -> a function that returns the Markdown."""
