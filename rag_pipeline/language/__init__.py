"""Knowledge about languages, Japanese first: words, sentences, characters, and detection of the language."""
