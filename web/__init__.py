"""Rooms of data.py: the web, and what becomes of its pages.

    toyweb              a miniature web, with the truth about every page; toywords, toyworld,
                        toypages and toylessons have its words, facts, pages and lessons
    crawl               fetches pages politely into a WARC; addresses, connection and remote are
                        about links, servers and files on the net
    warc                reads the files of crawlers; records and message are their parts
    charset, encoding   bytes of a page -> text
    robots              directives for robots, in headers and pages
    extract             HTML -> main text; markup, page and boilerplate are about its tags
    language            which language a text is in; classifier, fasttext_file and
                        language_training are about the model
    urls                hosts of addresses, block lists
    rights              what a page says of its own use
    words               English words and sentences, as spaCy splits them
    quality             the words of a text as numbers, for the rules of Gopher and FineWeb
    dedup               near-duplicates
    pii                 e-mail addresses and other personal data
    pipeline            data.py's run: sources, workers, units, shards
    options             data.py's options and settings
    funnel              what every stage of a run did
"""
