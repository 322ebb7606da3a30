"""The pages that a browser shows: home, the API to read and to try, what is going on, and errors."""
