"""What the project knows about languages: words, sentences, detection. Japanese first."""
