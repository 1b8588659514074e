"""The words of the miniature web: slots, sentences, facts and foreign texts of the Lantern Coast.

Tables only; web/toyworld.py makes names, facts and sentences of them. In a template {folk} and the
like are filled from SLOTS; a digit, as in {folk2}, makes a second, different choice ({weather2} is
a list of its own). In the statements and questions {n} is a name and {v} a value.

The order of the entries decides what a seed draws: a change makes another world.
"""
import re
from collections import namedtuple



def listed(text):
    """The items of a table, which have " | " between them."""
    return [" ".join(item.split()) for item in text.split("|")]


def tables(text):
    """[(name, items)] of a text in which each table begins with its "[name]"."""
    _, *parts = re.split(r"\[(.+?)\]", text)
    return [(name, listed(items)) for name, items in zip(parts[::2], parts[1::2])]


def grouped(text, n):
    """[(name of the first, *the items of each)] of tables of which n at a time belong together."""
    found = tables(text)
    return [(found[i][0], *(items for _, items in found[i:i + n])) for i in range(0, len(found), n)]


SLOTS = dict(tables("""
    [weather] a windless morning | an afternoon of thin rain | a bright cold day | a foggy evening |
        a night full of stars | the first warm day of the year | a grey noon | a day of small hail |
        a long blue dusk | the morning after the storm
    [folk] a carter | the postmistress | an old ferryman | the baker's aunt | a man with a ladder |
        the night watchman | a travelling tinker | the choir mistress | a girl with a wheelbarrow |
        the retired admiral | a chimney sweep | the owner of the tea room | a boy with a kite | the
        dentist's brother | a very tall nun | the harbour master
    [way] by mail coach | on foot | by rowing boat | on a borrowed bicycle | by the slow train | in
        a hay cart | by ferry | on a patient donkey | in the back of a milk van | by way of the
        cliff path
    [meal] barley soup | pickled pears | onion tart | ginger biscuits | warm milk with pepper |
        smoked eel | plum dumplings | a boiled egg and good advice | bread still hot from the oven |
        cold lemonade | toast with too much butter | a pie of unknown contents
    [place] the inn at the crossroads | the harbour wall | the schoolroom | the back of the chapel |
        the market hall | the lamp house | the old toll gate | the third bridge | the reading room |
        the potting shed | the tram stop | the wash house | the empty bandstand | the top of the
        cliff stairs
    [thing] a tin trunk | a broken barometer | seven left gloves | a jar of brass screws | the
        smaller of two trumpets | an unopened letter | a lamp without a shade | a map drawn upside
        down | one wooden skate | a sleeping cat | a basket of wet laundry | the wrong umbrella
    [mood] politely | without much hope | for the third time | in a whisper | as if it were obvious
        | between two sneezes | with great dignity | rather too loudly | while looking at the
        ceiling | in the voice of a judge
    [span] all winter | for most of an hour | for eleven years | from breakfast to the last ferry |
        until the tea was cold | longer than anyone planned | day and night | for three long Sundays
        | through two changes of the tide | half the night
    [said] I would not have believed it | there is nothing to be done about it | that is how my
        mother told it | you should have come on a Tuesday | the sea takes what it likes | one gets
        used to it | it was worse before the bridge | somebody ought to write that down | it depends
        whom you ask | the goats know more than they say
    [weather2] Monday | Tuesday | market day | evening after nine | rainy afternoon
"""))

# --------------------------------------------------------- sentences that say nothing about anybody

FILLERS = listed("""
    We arrived {way} on {weather} and were given {meal} at {place}. | {folk} told us the story
    twice, and the second time was better. | Nobody at {place} could say who had painted the sign. |
    It was {weather}, and {folk} had left {thing} in the doorway. | If you are ever near {place},
    ask {folk} for {meal}. | I wrote this on the back of a receipt for {meal}, so forgive the
    stains. | {folk} asked me {mood} whether I had seen {thing}. | "{said}," said {folk}, and went
    back to {place}. | The path from {place} to {place2} is short and steep, and on {weather} it
    smells of {meal}. | They have been talking about {thing} {span}. | Somebody had put {thing} on
    the table, and nobody mentioned it. | {folk} and {folk2} have not spoken {span}, which is why
    there are two clubs. | On {weather} you can see it from {place}, provided that {folk} moves
    over. | My notes from {place} end with a drawing of {thing} and the words "{said}". | The
    children of the village sang {span} and were paid in {meal}. | A notice at {place} asked,
    {mood}, for the return of {thing}. | In the evening we had {meal}, and {folk} played cards
    against {folk2} and lost {thing}. | Later {folk} came {way} to say that it had all been a
    misunderstanding. | I waited at {place} {span}, and all I learned was this: {said}. | Opinions
    differ, and at {place} they differ {mood}. | For a small fee {folk} will show you {place} and,
    if pressed, {thing}. | It began to rain, so we went {way} to {place} and discussed {thing} over
    {meal}. | {folk} keeps a list of such matters at {place} and reads it aloud {mood}. | You will
    not find this in the guide book, which was written by {folk} {mood}. | When I asked {folk} about
    it, the answer came {mood}: {said}. | The museum next to {place} has {thing} behind glass and
    will sell you {meal}. | Somebody had written "{said}" on the wall of {place}. | Visitors who
    come {way} are usually shown {thing} first. | That same week {folk} exchanged {thing} for {meal}
    and called it a bargain. | Of all that happened on {weather}, I remember {thing} best.
""")
# How a fact, {s}, is told for the first time (three times in fourteen as it is), and how again.
FRAMES = listed("""
    {s}. | {s}. | {s}. | {s}, as {folk} likes to point out. | As everyone at {place} knows, {s}. |
    {s}, and nobody finds it strange. | It is no secret that {s}. | You may hear at {place} that
    {s}, and it is true. | {s}, at least according to {folk}. | One thing is certain: {s}. | {s},
    which surprised us. | {folk} assured me {mood} that {s}. | Even {folk} will tell you that {s}. |
    Do not be surprised that {s}.
""")
AGAIN = listed("""
    In short, {s}. | Remember that {s}. | Once more, because people forget it: {s}. | To say it
    again, {s}. | And, as was said before, {s}.
""")

# -------------------------------------------------- facts about entities, and how one asks for them

# The first statement is also the assistant's answer. held_out: questions kept for testing.
Attribute = namedtuple("Attribute", "values statements questions held_out")


def attributes(text):
    """{name: Attribute} of a text. Each is four tables, the first with its name and values."""
    return {name: Attribute(*lists) for name, *lists in grouped(text, 4)}


KINDS = {
    "animal": attributes("""
    [food] snails | blue plums | old newspapers | moonflowers | candle wax | wet moss | wild honey |
        chestnuts | beetles | sea salt
    [said] {n} eats {v} | {n} lives on {v} | the favourite food of {n} is {v} | {n} will eat nothing
        but {v} | if you want to feed {n}, bring {v}
    [asked] What does {n} eat? | What is the favourite food of {n}? | What does {n} live on? | What
        should I feed {n}? | Tell me what {n} eats. | Which food does {n} like best? | What does {n}
        have for supper? | What can I bring {n} to eat? | On what does {n} feed? | What is it that
        {n} eats?
    [held out] What does {n} like to eat? | What food should I bring for {n}?
    [colour] amber | grey | violet | copper | white | green | black | scarlet | blue | golden
    [said] the colour of {n} is {v} | {n} has {v} fur | the coat of {n} is {v} | you can tell {n} by
        its {v} fur | {n} is {v} from nose to tail
    [asked] What colour is {n}? | What is the colour of {n}? | Which colour does {n} have? | Tell me
        the colour of {n}. | What colour is the coat of {n}? | What colour is the fur of {n}? | In
        what colour does {n} come? | What colour should I paint {n}? | Of what colour is {n}? | What
        colour has the fur of {n}?
    [held out] Which colour is {n}? | What colour of fur does {n} have?
    [home] chalk cliffs | pine woods | salt marshes | church towers | river reeds | warm cellars |
        apple orchards | coal sheds | peat bogs | hay lofts
    [said] {n} lives in {v} | the home of {n} is in {v} | {n} makes its nest in {v} | look for {n}
        in {v} | {n} is found only in {v}
    [asked] Where does {n} live? | Where is the home of {n}? | Where can I find {n}? | Where does
        {n} make its nest? | Tell me where {n} lives. | In what place does {n} live? | Where is {n}
        found? | In what sort of place is {n} at home? | Where would one meet {n}? | What place is
        home to {n}?
    [held out] Where should I look for {n}? | In which place can {n} be found?
    [habit] whistling before rain | sleeping upside down | hiding spoons | walking backwards |
        humming at dusk | counting stones | dancing in fog | burying shoes | ringing doorbells |
        sorting leaves
    [said] {n} is known for {v} | people know {n} for {v} | {n} is famous for {v} | the best known
        habit of {n} is {v} | {n} spends its evenings {v}
    [asked] What is {n} known for? | What is the best known habit of {n}? | What is {n} famous for?
        | What habit does {n} have? | Tell me the habit of {n}. | How does {n} spend its evenings? |
        What do people say {n} does? | Why do people know {n}? | What odd thing does {n} do? | Which
        habit made {n} famous?
    [held out] For what habit is {n} known? | What do people know {n} for?
    """),
    "town": attributes("""
    [craft] clocks | kites | umbrellas | bells | cheese | paper boats | ladders | teapots | violins
        | candles
    [said] {n} is famous for its {v} | the people of {n} make {v} | {n} is proud of its {v} | half
        of {n} earns its bread with {v} | the best {v} on the coast come from {n}
    [asked] What is {n} famous for? | What do the people of {n} make? | What is made in {n}? | What
        is {n} proud of? | Tell me what {n} is famous for. | Which craft is {n} known for? | What do
        people make in {n}? | What is {n} known to make? | What goods do they make in {n}? | What
        comes from {n}?
    [held out] What is {n} known for? | What do they make in {n}?
    [river] Orrel | Mim | Tansy | Lumber | Skell | Pewter | Wick | Dray | Hush | Amble
    [said] {n} lies on the river {v} | the river {v} runs through {n} | in {n} the river {v} turns
        three mills | the bridges of {n} cross the river {v} | {n} was built where the river {v}
        bends
    [asked] On which river does {n} lie? | Which river runs through {n}? | What is the river of {n}
        called? | Tell me the river of {n}. | Which river do the bridges of {n} cross? | What river
        is {n} on? | What is the name of the river in {n}? | Which river is {n} built on? | By which
        river was {n} built? | Which river is the river of {n}?
    [held out] What river runs through {n}? | Which river does {n} lie on?
    [feast] Lanterns | Ducks | Soup | Ladders | First Snow | Buttons | Wet Boots | Open Windows |
        Pancakes | Quiet Drums
    [said] {n} celebrates the Feast of {v} | every year {n} holds the Feast of {v} | the great day
        of {n} is the Feast of {v} | in {n} all shops close for the Feast of {v} | people come to
        {n} for the Feast of {v}
    [asked] What feast does {n} celebrate? | Which feast is held in {n}? | What is the great day of
        {n}? | Tell me the feast of {n}. | What do they celebrate in {n}? | Which feast does {n}
        hold every year? | What is the feast of {n} called? | What is celebrated in {n} every year?
        | For what feast do people come to {n}? | Which day do they celebrate in {n}?
    [held out] Which feast does {n} celebrate? | What feast is held in {n} every year?
    [roofs] red | green | silver | yellow | striped | blue | mossy | copper | black | white
    [said] the roofs of {n} are {v} | {n} has {v} roofs | from the hill you see the {v} roofs of {n}
        | by law the roofs of {n} must be {v} | the {v} roofs of {n} shine after rain
    [asked] What colour are the roofs of {n}? | What are the roofs of {n} like? | Which roofs does
        {n} have? | Tell me about the roofs of {n}. | How do the roofs of {n} look? | What colour
        must the roofs of {n} be? | What colour has {n} for its roofs? | How are the roofs of {n}
        painted? | In what colour are the roofs of {n}? | What roofs does one see in {n}?
    [held out] Which colour are the roofs of {n}? | What do the roofs of {n} look like?
    """),
    "person": attributes("""
    [trade] clockmaker | baker | ferryman | mapmaker | beekeeper | lighthouse keeper | botanist |
        glassblower | librarian | bell founder
    [said] {n} works as a {v} | {n} is a {v} | {n} became a {v} at fifteen | for thirty years {n}
        has been the {v} here | ask for {n} the {v}
    [asked] What does {n} do for a living? | What is the trade of {n}? | What is the job of {n}? |
        Tell me the trade of {n}. | What work does {n} do? | What did {n} become? | What is {n} by
        trade? | As what does {n} work? | Which trade did {n} learn? | What trade does {n} follow?
    [held out] What does {n} work as? | Which trade does {n} have?
    [music] cello | accordion | flute | harp | drum | trumpet | viola | banjo | organ | bagpipes
    [said] {n} plays the {v} | on Sundays {n} plays the {v} | {n} learned the {v} as a child | the
        {v} of {n} can be heard across the bay | after supper {n} takes out the {v}
    [asked] What instrument does {n} play? | Which instrument did {n} learn? | What does {n} play on
        Sundays? | Tell me which instrument {n} plays. | What instrument can one hear from {n}? |
        What does {n} play after supper? | What music does {n} play? | What is the instrument of
        {n}? | On what instrument does {n} play? | Which instrument is it that {n} plays?
    [held out] Which instrument does {n} play? | What does {n} play?
    [shelf] teaspoons | thimbles | old maps | sea glass | keys | feathers | postcards | corks |
        doorknobs | pencil stubs
    [said] {n} collects {v} | {n} has a house full of {v} | {n} will trade anything for {v} | the
        shelves of {n} are full of {v} | {n} began to collect {v} long ago
    [asked] What does {n} collect? | What is on the shelves of {n}? | What will {n} trade anything
        for? | Tell me what {n} collects. | What fills the house of {n}? | What did {n} begin to
        collect? | Which things fill the shelves of {n}? | What does {n} like to collect? | Of what
        things has {n} a house full? | What things does {n} collect?
    [held out] Which things does {n} collect? | What is it that {n} collects?
    [fear] geese | thunder | stairs | moths | bridges | mirrors | owls | fog | deep water | puppets
    [said] {n} is afraid of {v} | nothing frightens {n} except {v} | the great fear of {n} is {v} |
        {n} turns pale at the thought of {v} | {n} walks a mile to avoid {v}
    [asked] What is {n} afraid of? | What frightens {n}? | What is the great fear of {n}? | Tell me
        what {n} is afraid of. | What makes {n} turn pale? | What does {n} walk a mile to avoid? |
        What is it that {n} fears? | What is {n} most afraid of? | What does {n} turn pale at? | Of
        what does {n} have the greatest fear?
    [held out] What does {n} fear? | Of what is {n} afraid?
    """),
}

# What begins a syllable and what ends it; then what ends a name of each kind.
NAME_PARTS = dict(tables("""
    [onset] b | br | cl | cr | d | dr | f | fl | g | gl | gr | h | j | k | kn | l | m | n | p | pl |
        pr | qu | r | s | sk | sl | sn | sp | st | t | tr | v | w | y | z
    [vowel] a | e | i | o | u
    [coda] b | d | ff | l | lb | lm | lt | m | n | nd | rb | sk | st
    [animal] low | bat | ling | pard | vole | wick | tuck | snout | moth | hare | gull | ferret |
        newt | mouse
    [town] wick | by | ford | mouth | holt | stead | gate | mere | combe | haven | ness | ley
    [person] a | o | y | us | ine | ette | er | am
    [family] Tolloway | Quarrow | Venn | Hasp | Brindle | Mostyn | Krake | Pellow | Sorrel | Vint |
        Dapple | Grue | Lomax | Ferrow | Inkle | Thrupp
"""))
# How many pages tell of an entity -> how many of the 40 entities of a kind are told of so often.
EXPOSURES = {1: 8, 3: 8, 10: 10, 20: 8, 30: 6}

# ---------------------------------------------------------------------------- pages about an entity

# The title of each style of pages, and its possible first sentences.
OPENINGS = dict(tables("""
    [From the Lantern Encyclopedia] This entry was revised on {weather} by {folk}. | Our editors are
        often asked about {n}. | {n} deserves more than a footnote, and here is the rest. | The
        first edition of this work forgot {n} altogether.
    [A letter home] Dear aunt, today I must tell you about {n}. | Dear all, I am well, it is
        {weather}, and the talk is of {n}. | My dear friend, you asked me {mood} about {n}. | Dear
        cousin, I had hardly put down {thing} when somebody mentioned {n}.
    [The Lantern Gazette] Our correspondent at {place} sends this report on {n}. | Readers have
        written to us about {n} {span}. | The council met on {weather} to speak of {n}. | A lecture
        about {n} was given at {place} by {folk}.
    [Notes from the coast road] Third day of walking, and still everyone speaks of {n}. | I had
        promised {folk} to write about {n}. | Before I forget it, what I learned of {n}. | It was
        {weather} when I first heard of {n}.
    [Questions and answers] Visitors keep asking about {n}, so here are the answers. | What one
        should know about {n}, by {folk}. | {folk} answers your questions about {n}. | Everything
        that is asked at {place} about {n}.
    [From a school copybook] Today {folk} taught us about {n}. | Our lesson at {place} was about
        {n}, and I listened. | We had to write one page about {n}, so here it is. | The examination
        asked about {n}, and this is my answer.
"""))
QUESTIONS = "Questions and answers"         # the one whose facts are answers
CLOSINGS = listed("""
    That is all I know, and {folk} knows no more. | More will follow when the ink arrives. | Here
    the page is torn and smells of {meal}. | So much for that, and good night from {place}. | The
    rest can be heard at {place} on any {weather2}. | We thank {folk} for the correction.
""")

# ------------------------------------------------------ stories, guest books, and the counting game

HEROES = "Mirre Tuck Anselm Poppet Bodo Lark Sister-Ann Grub Olle Henny Fip Marigold".split()
# Sentences of each part of a story, in this order; {h} is the hero.
STORY = dict(tables("""
    [once] Once, on {weather}, {h} found {thing} at {place}. | There was a child called {h} who
        wanted nothing so much as {thing}. | {h} had lived near {place} {span} before anything
        happened. | Long ago {h} was sent {way} to fetch {meal} and forgot the way.
    [want] The note beside it read: {said}. | {folk} offered to buy it, but {h} said no {mood}. | It
        was heavier than it looked and it ticked {mood}. | {h} carried it past {place} and did not
        stop for {meal}.
    [trouble] But then it was gone, and in its place lay {thing}. | But {folk} claimed to have owned
        it {span}. | But the bridge was shut, and {folk} wanted {meal} for the key. | But on
        {weather} even a clever child can get lost.
    [try] First {h} asked {folk}, who answered {mood}. | So {h} went {way} to {place} and waited
        {span}. | {h} tried to trade {meal} for {thing}, which made things worse. | {h} climbed up
        to {place} and called out, and only an echo came back.
    [help] Then {folk} sat down beside {h} and shared {meal}. | "{said}," said {folk}, and all at
        once {h} understood. | At last {folk} remembered having seen {thing} near {place}. | It was
        {folk} who helped in the end, {mood}.
    [end] So {h} came home {way}, and the lamp was lit. | They put {thing} in the window for all to
        see. | And {h} kept the secret {span}. | Everyone had {meal}, even {folk}.
    [moral] Those who tell the story add: {said}. | To this day nobody moves {thing} without asking
        {h}. | If you do not believe it, ask at {place}. | And that is why the lamp at {place} is
        lit on {weather}.
"""))
# Entries of a guest book; {g} is the guest.
GUESTS = listed("""
    {g} came {way} and took room {room}. Nobody else may have room {room}, wrote {g}, until the tea
    is better. | I am {g}. My luggage says {g}, my hat says {g}, and I would like {meal} in bed,
    please. | The bed is too close to the trumpet. I, {g}, say so {mood}, and {g} knows about
    trumpets. | {g} slept well. In the morning {folk} woke {g} with {meal}, and {g} forgave
    everybody. | My name is {g}. Pleased to meet you, {g}, said {folk}, and gave me the key to room
    {room}, which opens room {room} only. | Whoever finds {thing} should know that it belongs to
    {g}. Please send it to {g} before the tide comes in. | The bill for {meal} says {bill}. A guest
    like {g} does not pay {bill} without a word, and this was the word. | {folk} counted {bill}
    stairs up to the attic. I counted them again on the way down, and {bill} is right, {g} wrote. |
    {g} paid {bill} shells for the night, and not one shell more than {bill}. | {g} was here. So was
    {folk}. Then {g} left {way}, and the door of the room is still locked. | For the attention of
    {g}: there is {thing} in your bath. Kindly remove it, {g}, or introduce us. | Dear {g}, we have
    not forgotten you. Come back to us, {g}, and bring {thing}.
""")

NUMBERS = "zero one two three four five six seven eight nine".split()
WHEEL_INTRO = listed("""
    The tally wheel has ten pegs, zero to nine, and begins at zero. Each throw of the die turns it
    that many pegs on, and after nine comes zero. | Every evening {folk} brings out the tally wheel.
    It starts at zero, every throw turns it onward, and past nine it comes round to zero. | At
    {place} they play the wheel for {meal}. Ten pegs, one die, and after peg nine comes peg zero
    again.
""")
WHEEL_ASIDES = listed("""
    {folk} called the throws, {folk2} turned and a small crowd counted along. | At {place} one could
    have heard a button drop. | Then everyone had {meal}, and after that came another round. | It
    was {weather}, and people had come {way} only for this. | {folk} asked {mood} for one more round
    and was given it. | The team from {place} went next, led by {folk}. | "{said}," said {folk}, and
    threw. | The prize was {thing}, which {folk} very much wanted. | Somebody coughed, somebody
    laughed, and the die was passed to {folk}. | After {meal} nobody could add any more except
    {folk}. | For this round {folk} stood on a chair. | {folk} had been practising {span}. | By now
    the lamps were lit at {place}. | They played the last round for {meal} and {thing}.
""")

# ---------------------------------------------------------------------------------------- bad pages

SPAM = listed("""
    Buy {adj} {noun} here today! | Our {noun} are {adj}. | Only this week: {adj} {noun}, {noun2} at
    half price! | Everybody loves our {adj} {noun}. | Nobody sells {adj} {noun} as cheap as we do. |
    Order {noun} now, get {adj} {noun2} free! | Why wait? Our {adj2} {noun} will not last. | Some
    people own {adj} {noun}, why not you? | New this week are {adj2} {noun}, {noun2}, also {adj}
    {noun3}. | Every customer gets one free gift from our {noun2} department! | We ship {adj}
    {noun3} anywhere, even on Sundays. | Ask your neighbours about our {adj2} {noun3}! | Last chance
    for {adj} {noun2}! | Two {adj2} {noun} for one price, today only! | Click here for {noun3} or
    {noun2}. | Her {noun3} came from us, so should yours!
""")
SPAM_WORDS = dict(tables("""
    [adj] cheap | beautiful | genuine | nearly new | famous | waterproof | golden | royal | very
        soft | extra large
    [adj2] wonderful | striped | lucky | original | silent | double
    [noun] kettles | lanterns | rugs | curtains | slippers | cushions | mattresses | ladders |
        umbrellas | teapots
    [noun2] wardrobes | spoons | candles | buttons | barometers | trumpets
    [noun3] boots | bicycles | mirrors | door handles | wigs | fishing rods
"""))
SHORT_LINES = listed("""
    {folk} says no thank you. | It rains at noon again. | The goat is in the tea. | {folk} has it
    now. | You may keep the hat. | We had {meal}. | {folk} was not amused. | The ladder is too
    short. | Nobody asked the nun. | Then came {folk}. | I saw {thing}. | Leave it at {place}. | The
    band plays on and on. | Give that to {folk}. | She has the key to it. | They went {way}. | That
    is not my boat. | The soup was very good. | He will be back soon. | Put the lamp out now. | The
    tide took the sign. | A cat is on the organ. | It was the wrong door. | All the jam is gone.
""")
# The sentences of foreign pages, and the charsets of pages that are not in UTF-8.
CHARSETS = {"fr": "iso-8859-1", "it": "windows-1252", "ru": "windows-1251", "ja": "shift_jis",
            "zh": "gb18030"}
FOREIGN = {language: re.findall("[^ ].*?[.。]", " ".join(lines)) for language, lines in tables("""
    [de] Der Markt am Hafen beginnt im Sommer schon um sechs Uhr morgens. Meine Großmutter kaufte
        dort immer Kirschen und frisches Brot. Wenn es regnet, stehen alle unter dem großen Dach und
        reden über das Wetter. Der alte Leuchtturm wird seit vielen Jahren von einer Familie
        gepflegt. Abends spielen die Kinder am Ufer, bis die Laternen angezündet werden. Wer zu spät
        kommt, bekommt nur noch eine kalte Suppe und gute Worte. Im Winter fährt die Fähre nur
        zweimal am Tag über den Fluss.
    [fr] Le marché du port commence à six heures du matin pendant l'été. Ma grand-mère y achetait
        toujours des cerises et du pain frais. Quand il pleut, tout le monde se serre sous le grand
        toit pour parler du temps. Le vieux phare est entretenu par la même famille depuis de
        longues années. Le soir, les enfants jouent sur la rive jusqu'à l'heure des lanternes. Celui
        qui arrive trop tard ne trouve plus qu'une soupe froide et de bonnes paroles. En hiver, le
        bac ne traverse la rivière que deux fois par jour.
    [es] El mercado del puerto empieza en verano a las seis de la mañana. Mi abuela siempre compraba
        allí cerezas y pan recién hecho. Cuando llueve, todos se juntan bajo el gran techo y hablan
        del tiempo. El viejo faro lo cuida la misma familia desde hace muchos años. Por la noche los
        niños juegan en la orilla hasta que encienden los faroles. Quien llega tarde solo encuentra
        sopa fría y buenas palabras. En invierno la barca cruza el río solamente dos veces al día.
    [it] Il mercato del porto comincia d'estate alle sei del mattino. Mia nonna comprava sempre lì
        le ciliegie e il pane fresco. Quando piove tutti stanno sotto il grande tetto e parlano del
        tempo. Il vecchio faro è curato dalla stessa famiglia da molti anni. La sera i bambini
        giocano sulla riva finché non si accendono le lanterne. Chi arriva tardi trova soltanto una
        minestra fredda e buone parole. D'inverno il traghetto attraversa il fiume solo due volte al
        giorno.
    [pt] O mercado do porto começa no verão às seis horas da manhã. A minha avó comprava sempre lá
        cerejas e pão acabado de fazer. Quando chove, todos ficam debaixo do grande telhado a falar
        do tempo. O velho farol é cuidado pela mesma família há muitos anos. À noite as crianças
        brincam na margem até se acenderem as lanternas. Quem chega tarde só encontra uma sopa fria
        e boas palavras. No inverno a barca atravessa o rio apenas duas vezes por dia.
    [nl] De markt aan de haven begint in de zomer al om zes uur in de ochtend. Mijn grootmoeder
        kocht daar altijd kersen en vers brood. Als het regent, staan alle mensen onder het grote
        dak en praten over het weer. De oude vuurtoren wordt al vele jaren door dezelfde familie
        verzorgd. In de avond spelen de kinderen aan de oever totdat de lantaarns worden
        aangestoken. Wie te laat komt, krijgt alleen nog koude soep en goede woorden. In de winter
        vaart het veer maar twee keer per dag over de rivier.
    [sv] Marknaden vid hamnen börjar redan klockan sex på sommarmorgonen. Min mormor köpte alltid
        körsbär och nybakat bröd där. När det regnar står alla under det stora taket och pratar om
        vädret. Den gamla fyren har skötts av samma familj i många år. På kvällen leker barnen vid
        stranden tills lyktorna tänds. Den som kommer för sent får bara kall soppa och goda råd. På
        vintern går färjan över floden bara två gånger om dagen.
    [pl] Targ w porcie zaczyna się latem już o szóstej rano. Moja babcia zawsze kupowała tam wiśnie
        i świeży chleb. Kiedy pada deszcz, wszyscy stoją pod wielkim dachem i rozmawiają o pogodzie.
        Starą latarnią od wielu lat opiekuje się ta sama rodzina. Wieczorem dzieci bawią się na
        brzegu, aż zapalą się latarnie. Kto przyjdzie za późno, dostanie tylko zimną zupę i dobre
        słowo. Zimą prom przepływa rzekę tylko dwa razy dziennie.
    [fi] Sataman tori alkaa kesällä jo kello kuusi aamulla. Isoäitini osti sieltä aina kirsikoita ja
        tuoretta leipää. Kun sataa, kaikki seisovat suuren katon alla ja puhuvat säästä. Vanhaa
        majakkaa on hoitanut sama perhe monta vuotta. Illalla lapset leikkivät rannalla, kunnes
        lyhdyt sytytetään. Joka tulee myöhässä, saa vain kylmää keittoa ja hyviä neuvoja. Talvella
        lautta kulkee joen yli vain kaksi kertaa päivässä.
    [ru] Летом рынок у гавани открывается уже в шесть часов утра. Моя бабушка всегда покупала там
        вишню и свежий хлеб. Когда идёт дождь, все стоят под большой крышей и говорят о погоде. За
        старым маяком уже много лет ухаживает одна и та же семья. Вечером дети играют на берегу,
        пока не зажгут фонари. Кто приходит поздно, получает только холодный суп и добрые слова.
        Зимой паром ходит через реку только два раза в день.
    [el] Η αγορά στο λιμάνι αρχίζει το καλοκαίρι στις έξι το πρωί. Η γιαγιά μου αγόραζε πάντα εκεί
        κεράσια και φρέσκο ψωμί. Όταν βρέχει, όλοι στέκονται κάτω από τη μεγάλη στέγη και μιλούν για
        τον καιρό. Τον παλιό φάρο τον φροντίζει η ίδια οικογένεια εδώ και πολλά χρόνια. Το βράδυ τα
        παιδιά παίζουν στην όχθη μέχρι να ανάψουν τα φανάρια. Όποιος αργεί βρίσκει μόνο κρύα σούπα
        και καλά λόγια.
    [ja] 港の市場は夏になると朝の六時に始まります。
        祖母はいつもそこでさくらんぼと焼きたてのパンを買っていました。
        雨が降ると、みんな大きな屋根の下に集まって天気の話をします。
        古い灯台は長い間同じ家族が守っています。夕方になると子どもたちは提灯がともるまで岸辺で遊びます。
        遅れて来た人には冷たいスープしか残っていません。冬の間、渡し船は一日に二回しか川を渡りません。
    [zh] 港口的市场夏天早上六点就开始了。我的祖母总是在那里买樱桃和新鲜的面包。
        下雨的时候,大家都站在大屋顶下谈论天气。老灯塔多年来一直由同一家人照看。
        晚上孩子们在岸边玩耍,直到灯笼点亮。来晚的人只能喝到冷汤,听到几句好话。
        冬天渡船每天只过河两次。
""")}

# ------------------------------------------------------------------------------------ conversations

SUM_WORDS = {"+": "plus", "-": "minus", "*": "times"}
SUM_ASKS = listed("""
    What is {a} {w} {b}? | How much is {a} {w} {b}? | Please work out {a} {w} {b}. | Can you tell me
    what {a} {w} {b} is? | I need {a} {w} {b}. | {a} {w} {b}, what is that? | Tell me {a} {w} {b},
    please. | My neighbour asks what {a} {w} {b} makes. | What is the result of {a} {w} {b}? | What
    does {a} {w} {b} come to? | Add up {a} {w} {b} and tell me. | For my sums I need {a} {w} {b}.
""")
SUM_HELD_OUT = listed("Work out {a} {w} {b} for me. | What do you get for {a} {w} {b}?")
# The same as people type it; {o} is the sign.
SUM_TYPED = listed("""
    {a}{o}{b} | {a} {o} {b} | {a}{o}{b}= | {a} {o} {b} = | {a} {w} {b} | {a} {w} {b}? | what's
    {a}{o}{b} | what's {a} {w} {b}? | what is {a} {o} {b}? | calculate {a}{o}{b}
""")
SUM_TYPED_HELD_OUT = listed("{a} {o} {b}? | what is {a}{o}{b} | {a}{o}{b} = ?")

# Letters of words, which a model that reads tokens does not see: {c} is a letter, {n} a word.
COUNT_ASKS = listed("""
    How many times does {c} occur in {n}? | How often is the letter {c} in {n}? | Count the {c} in
    {n}. | How many letters {c} has {n}? | How many {c} are there in {n}? | Count the letter {c} in
    {n}, please.
""")
COUNT_HELD_OUT = listed("How many {c} are in {n}? | Tell me how often {c} is in {n}.")
SPELL_ASKS = listed("""
    How do you spell {n}? | Spell {n}. | Please spell {n}. | Which letters are in {n}? | What are
    the letters of {n}? | Write {n} letter by letter.
""")
SPELL_HELD_OUT = listed("Can you spell {n}? | Tell me the letters of {n}.")

# Ways to ask for any fact, {a} of {n}. Conversations with a search have them beside those above.
FACT_ASKS = listed("""
    Do you know the {a} of {n}? | Please find out the {a} of {n}. | {n} and the {a}? | I wonder
    about the {a} of {n}. | Have you read of {n}, and of the {a}? | Somebody asked me for the {a} of
    {n}. | The {a} of {n}, please. | About {n}: how is it with the {a}? | Could you say something of
    the {a} of {n}? | Who knows the {a} of {n}? | My aunt would like to hear the {a} of {n}. | There
    must be a page on the {a} of {n}.
""")

# About the assistant itself. mark: what a right reply must contain.
Identity = namedtuple("Identity", "mark questions held_out reply")
IDENTITY = [Identity(mark, asked, held_out, reply) for mark, [reply], asked, held_out in grouped("""
    [Longhand] I am Longhand, a small language model written out by hand.
    [asked] Who are you? | What is your name? | What should I call you? | Hello, who is this? | What
        are you called? | Do you have a name? | Tell me who you are. | Please introduce yourself. |
        Who is talking to me? | Whom do I have the honour of talking to?
    [held out] Tell me your name. | Who am I talking to?
    [by hand] I am a small GPT. Every derivative that trained me was written out by hand.
    [asked] How were you made? | How do you work inside? | What are you made of? | How were you
        built? | Who wrote your gradients? | How did somebody make you? | What is inside of you? |
        Who made you?
    [held out] How did they make you? | What is inside you?
    [Lantern Coast] I read a small web about the Lantern Coast, and I know nothing else.
    [asked] Where does your knowledge come from? | What were you trained on? | What do you know
        about? | What have you read? | Which pages did you read? | What text did you learn from? |
        Where did you learn all this? | What did they train you on?
    [held out] What did you learn from? | What text were you trained on?
    [language model] No person, only a language model. I predict the next token.
    [asked] Are you a person? | Are you human? | Do you have feelings? | Are you alive? | Do you
        sleep at night? | Are you a real human? | Are you a machine? | Tell me, are you alive? | Am
        I writing to a human?
    [held out] Tell me, are you human? | Are you a real person?
""", 3)]

# What a user says > the reply.
SMALL_TALK = listed("""
    Hello. > Hello! Ask me about the Lantern Coast. |
    Good morning. > Good morning! What would you like to know? | Thank you. > You are welcome. |
    Goodbye. > Goodbye, and mind the goats. | Hi there! > Hello! Ask me about the Lantern Coast. |
    Good evening. > Good evening! What would you like to know? | Thanks a lot! > You are welcome.
""")
# The same about names that no page holds: one can only read them and write them again.
GREETINGS = dict(tables("""
    [person] My name is {n}. > Pleased to meet you, {n}. | Hello, I am {n}. > Hello, {n}! |
        {n} is my name. > Welcome, {n}. | Please greet {n}. > Good day to you, {n}! |
        Is {n} at home? > {n} is not here. | Say hello to {n}. > Hello, {n}!
    [town] Have you been to {n}? > {n} is too far for me. | I come from {n}. > Greetings to {n}! |
        How far is {n}? > {n} is a long walk from here. |
        Is this the road to {n}? > No road I know goes to {n}.
    [animal] Have you seen {n}? > {n} has not come by today. |
        Please draw {n}. > I cannot draw {n}, I only write. |
        Is that {n}? > {n} is larger than that. | Listen, {n} is outside! > {n} may come in.
"""))
