"""From a file's bytes to Markdown and metadata: `parser.parse` and one reader per format.

The readers (`markdown`, `html`, `pdf`, `docx`) return an `ExtractedDocument`; `parser` cleans it into a
`ParsedDocument`. `encoding` decodes text, `dates` parses dates. The pipeline parses through a `parser_pool`, whose
processes (`parse_worker`) can be killed.

To add a format: write a module with a reader, then add its extensions to `parser._FORMATS`, the reader to
`parser._READERS`, and one for the date that it states to `parser._DATE_READERS`. Add the extensions to
`sources.config.DEFAULT_INCLUDE` for sources to find them by default.
"""
