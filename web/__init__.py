"""Rooms of data.py: the web, and what becomes of its pages.

    toyweb      a miniature web, with the truth about every page
    crawl       fetches pages politely into a WARC
    warc        reads the files of crawlers
    charset     bytes of a page -> text
    robots      what a page says of its use
    extract     HTML -> main text
    language    which language a text is in
    words       English words, as spaCy splits them
    filters     what each stage keeps
    dedup       near-duplicates
"""
