"""Words by which boilerplate gives itself away: in the names of elements, in headings, on buttons.

There is no rule for a single site, and these words are all that is known about languages. The core
of the vocabulary is trafilatura's.
"""
import re

from web.markup import attributes, names_in

MAX_REASONS = 32                  # of one element; on real pages there are up to 16
MAX_NAMES = 1000                  # characters of attributes that are searched for a lede's name

# ----------------------------------------------------------------------------------------- elements

# Words of class, id, role and itemprop. A word of six letters stands for all that begin with it.
# Names are mostly English everywhere, but not all are.
VOCABULARY = set("""
    nav navi naviga navbar navbox subnav menu menus submen megame dropdo breadc pagina pager paging
    toolba topbar masthe banner footer foot coloph copyri imprint impressum sideba catlin editse
    login signin signup modal popup popups overlay overlays toolti lightb offcan print search dialog
    cookie consen newsle subscr paywal promo promos syndic signat userin postpr ad ads adv advert
    sponso outbra tabool criteo anzeig werbun reklam iklan annons annonce publicidad publicidade
    publicite pubblicita share shares sharin shareb sharet sharedaddy social addthi addtoa viral
    teilen partag compartir compartilhar condiv paylas bagika relate relaci recomm simila sugges
    trendi mostre readmo upsell recirc teaser verwan correl powiaz terkai ilgili commen koment
    coment kommen disqus akisme respond reply replie yorum yoruml reacties meta date dates time
    datum fecha dateli timest byline author autor autore auteur avtor yazar tags taglis tagclo
    rating vote votes credit credits captio attach carous slides galler infobo button cta discla
    """.split())
# Of these, the words for where a box stands or how it looks. They are believed of small boxes.
PLACES = set("""
    nav navi naviga navbar menu submen dropdo sideba search dialog carous slides slider teaser print
    ad adv promo promos sponso newsle meta date dates time tags attach infobo readmo share sharin
    social rating breadc button
    """.split())
# And the words for what readers wrote: beside an article it is removed, in a forum it is the text.
REPLIES = set("""
    commen koment coment kommen disqus reply replie respon respond sugges yorum yoruml reacties
    """.split())
CONCEALED = {"hidden", "sr-only", "screen-reader-text", "visually-hidden", "visuallyhidden"}
TAILS = ("sidebar", "footer", "banner", "menu", "comments", "caption", "author")
# Names of the article itself. It may have others, too: blogs add a post's tags to its classes.
ARTICLE = re.compile(r"(?i)articlebody|\b(?:hentry|status-publish)\b"
                     r"|(?:article|entry|post|story)[-_]*(?:body|content|text)(?![a-z])")
WORD = re.compile("[A-Z]?[a-z]+|[A-Z]+")                    # navLinks_2 -> nav Links
HIDDEN = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden")


def boilerplate(attrs):
    """The reasons, from its attributes, to call an element boilerplate.

    >>> boilerplate(' class="post-footer relatedPosts"'), boilerplate(' class="footnote"')
    (('footer', 'relate'), ())
    """
    if "hidden" in attrs or "none" in attrs or "sr-only" in attrs or "reader" in attrs:
        found = attributes(attrs)
        if ("hidden" in found or found.get("aria-hidden") == "true"
                or HIDDEN.search(found.get("style", ""))
                or not CONCEALED.isdisjoint(found.get("class", "").split())):
            return ("hidden",)
    names = names_in(attrs)
    if not names:
        return ()
    words, reasons = WORD.findall(names.lower()), {}
    if not names.islower():                     # navLinks is nav and Links, and it is navlinks
        words = WORD.findall(names) + words
    for word in map(str.lower, words):
        if word not in VOCABULARY and word[:6] not in VOCABULARY:
            if not word.endswith(TAILS):                    # nearly all; one call asks for all
                continue
            word = next(filter(word.endswith, TAILS))
        if len(reasons) < MAX_REASONS:
            reasons[word[:6]] = True
    return () if reasons and ARTICLE.search(names) else tuple(reasons)


# Names of the first paragraph of an article, which often stands beside it.
LEDES = set("intro lead lede perex standf dek abstra chapo chapea vorspa einlei entrad "
            "ingres".split())
DIGITS = re.compile("[0-9]+")


def shape(attrs):
    """The classes of an element without their numbers: the parts of a text often share them."""
    return DIGITS.sub("", attributes(attrs).get("class", ""))


def is_lede(attrs):
    """Whether an element is named as the first paragraph of an article."""
    names = names_in(attrs[:MAX_NAMES])
    return any(word.lower()[:6] in LEDES for word in WORD.findall(names))


# ----------------------------------------------------------------------------- headings and buttons

# Headings of what follows a text. Digits and marks at either end are ignored.
SECTIONS = set("""
comment|comments|leave a comment|leave a reply|post a comment|add a comment|write a comment
join the discussion|join the conversation|reader comments|what do you think|related
related articles|related posts|related stories|related news|related content|related topics
similar articles|similar posts|similar stories|latest news|latest posts|latest articles
latest stories|recent news|recent posts|recent articles|recent stories|more news|more posts
more articles|more stories|other news|other posts|other articles|other stories|top stories
popular posts|popular articles|featured posts|featured articles|trending|trending now
read next|read also|read more|up next|keep reading|you may also like|you might also like
you may also enjoy|you may be interested in|you might be interested in|recommended
recommended for you|recommended articles|recommended reading|also in the news|most read
most popular|most viewed|about the author|about the authors|about author
kommentar|kommentare|kommentar schreiben|schreibe einen kommentar|kommentar verfassen
mehr zum thema|das könnte sie auch interessieren|das könnte dich auch interessieren
auch interessant|weitere artikel|weitere beiträge|weitere meldungen|weitere themen
weitere nachrichten|ähnliche artikel|ähnliche beiträge|verwandte artikel|verwandte beiträge
verwandte themen|lesen sie auch|neueste beiträge|aktuelle beiträge|beliebte beiträge
meistgelesen|über den autor|über die autorin
commentaires|laisser un commentaire|articles similaires|articles récents|à lire aussi|lire aussi
sur le même sujet|dans la même rubrique|à propos de l'auteur
comentarios|deja un comentario|artículos relacionados|noticias relacionadas|te puede interesar
también te puede interesar|lo más leído|entradas recientes
comentários|deixe um comentário|artigos relacionados|notícias relacionadas|leia também|mais lidas
commenti|lascia un commento|articoli correlati|leggi anche|potrebbe interessarti
reacties|plaats een reactie|gerelateerde artikelen|lees ook|meest gelezen
kommentarer|relaterade artiklar|läs också|läs även|mest lästa
komentarze|dodaj komentarz|powiązane artykuły|zobacz także|czytaj także|czytaj również
komentáře|související články|přečtěte si také
yorumlar|yorum yap|benzer haberler|ilgili haberler
комментарии|оставить комментарий|похожие статьи|похожие записи|читайте также|другие новости
komentar|berita terkait|artikel terkait|baca juga|bình luận|bài viết liên quan|tin liên quan
التعليقات|مقالات ذات صلة|أخبار ذات صلة|اقرأ أيضا|संबंधित खबरें|यह भी पढ़ें
评论|相关文章|相关新闻|相关阅读|推荐阅读|関連記事|関連ニュース|コメント|おすすめ記事|人気記事|관련기사|관련 기사|댓글|추천 기사
""".strip().replace("\n", "|").split("|"))
SECTIONS_ON = ("more from ", "more on ", "more in ", "latest from ", "comments on ", "comment on ",
               "thoughts on ", "thought on ", "responses to ", "response to ", "replies to ",
               "kommentare zu ", "gedanken zu ", "mehr von ", "mehr aus ")
ENDS = re.compile(r"\A[\W\d_]+|[\W\d_]+\Z")


def is_afterwards(heading):
    """Whether a heading says that its section is no part of the text above.

    >>> is_afterwards("3 Comments"), is_afterwards("Related articles:"), is_afterwards("Tides")
    (True, True, False)
    """
    name = ENDS.sub("", heading[:100].lower())
    return name in SECTIONS or name.startswith(SECTIONS_ON)


# Lines that are buttons: advert, share, read more, comments, a network. In items and cells they
# stay.
BUTTONS = set("""
ad|advertisement|advertisements|advert|sponsored|anzeige|werbung|publicité|publicidad|publicidade
pubblicità|advertentie|annons|reklama|reklam|реклама|إعلان|विज्ञापन|โฆษณา|quảng cáo|iklan|广告|廣告|広告
광고|share|share this|share article|share story|share this article|share this story|teilen|partager
compartir|compartilhar|condividi|delen|dela|udostępnij|paylaş|поделиться|مشاركة|शेयर करें|chia sẻ
bagikan|分享|シェア|공유|read more|continue reading|weiterlesen|lire la suite|leer más|leia mais
leggi tutto|lees meer|läs mer|czytaj więcej|devamını oku|читать далее|اقرأ المزيد|और पढ़ें|อ่านต่อ
đọc thêm|阅读更多|続きを読む|더 보기|comment|comments|print|email|e-mail|copy link|loading|tweet|pin
pin it|facebook|twitter|pinterest|whatsapp|telegram|linkedin|reddit
""".strip().replace("\n", "|").split("|"))
