"""Rooms of data.py: the web, and what becomes of its pages.

A miniature web, about which the truth is known:
    toywords      its words
    toyworld      its creatures, towns and people, and the counting game
    toypages      its pages, good and bad
    toytools      conversations in which the assistant calls a tool
    toylessons    conversations, comparisons and tasks about it
    toybooks      passages, transcripts and exercises, which teach to look back
    toypuzzles    puzzles in which tries pay, and their checker
    toysuppers    suppers, whose true value is known
    toynumbers    verses, versions and prices, which compare 9.11 and 9.9
    toyguidelines  what people who write its conversations are told
    toyweb        its crawl; the census and the score

The web itself:
    crawl         fetches pages politely into a WARC
    addresses     one spelling for each address
    robots        what a host and a page allow
    connection    one request and its response, within limits
    remote        large files read over the network
    warc          the files of crawlers: what a record says; reading and writing
    records       where records begin and end in files that may be damaged
    message       HTTP: headers and bodies

From bytes to text:
    charset       which encoding a page is in
    encoding      the encodings of the web
    markup        tags, attributes and character references
    elements      a page as elements and lines of text
    boilerplate   the words that name what is no text
    extract       HTML -> main text

Which language a text is in:
    language           the prediction in a few lines; the commands
    classifier         the same at full speed, for all of fastText's models
    fasttext_file      the format of fastText's models
    language_training  how language.ftz was made

What is kept:
    urls          hosts of addresses, block lists
    rights        what a page says of its own use
    words         English words and sentences, as spaCy splits them
    quality       the words of a text as numbers, for the rules of Gopher and FineWeb
    dedup         near-duplicates: signatures and clusters
    dedup_steps   near-duplicates in files: the command, in three steps
    matching      near-duplicates in files: keys, pairs, and which documents go
    pii           e-mail addresses and other personal data

What is asked for later:
    search        the page that answers a query, by BM25

The run of data.py:
    pipeline      sources, workers, units, and the phases of a run
    results       the results of each file, shards of all of them, the report
    options       its options and settings
    funnel        what every stage did
    examples      a made-up page for each stage, for data.py --check
"""
