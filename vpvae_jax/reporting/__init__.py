"""Tables, charts and a page of evaluated runs."""
