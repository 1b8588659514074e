"""toyweb.py: a miniature web with known truth.

About 3,000 pages on 150 hosts around an invented shore, the Lantern Coast, written as a real crawl: WARC,
one gzip member per record, request, response and metadata for each capture. Its good pages are stories,
entries about invented animals, towns and people, and rounds of a counting game; its bad pages give every
filter of data.py something to do. Every name is made up, so whatever a model trained on it says, it
learned here; each fact stands on a known number of pages, so knowledge can be measured against exposure.

The same seed also writes conversations, comparison pairs and verifiable tasks for align.py. What is held
out for testing (facts never asked, phrasings, sums, rounds of the game) is in no training text.

    python -m web.toyweb                   write out/demo and print a census
    python -m web.toyweb --score           compare what data.py kept and dropped with the truth

Same seed, same bytes, whatever Python writes them.
"""

import argparse
import base64
import gzip
import hashlib
import json
import random
import re
import shutil
import uuid
import zlib
from collections import Counter, namedtuple
from html import escape
from pathlib import Path

from run import command, disk
from run import runs

Page = namedtuple("Page", "url label html charset original")     # original: the url a mirror copies, or None

# ------------------------------------------------------------------------------------------------ vocabulary
# {folk} and the like are filled from SLOTS; a digit only makes a second, independent choice: {folk2}.

SLOTS = {
    "weather": "a windless morning|an afternoon of thin rain|a bright cold day|a foggy evening|a night full of stars|"
               "the first warm day of the year|a grey noon|a day of small hail|a long blue dusk|the morning after the storm",
    "folk": "a carter|the postmistress|an old ferryman|the baker's aunt|a man with a ladder|the night watchman|"
            "a travelling tinker|the choir mistress|a girl with a wheelbarrow|the retired admiral|a chimney sweep|"
            "the owner of the tea room|a boy with a kite|the dentist's brother|a very tall nun|the harbour master",
    "way": "by mail coach|on foot|by rowing boat|on a borrowed bicycle|by the slow train|in a hay cart|by ferry|"
           "on a patient donkey|in the back of a milk van|by way of the cliff path",
    "meal": "barley soup|pickled pears|onion tart|ginger biscuits|warm milk with pepper|smoked eel|plum dumplings|"
            "a boiled egg and good advice|bread still hot from the oven|cold lemonade|toast with too much butter|"
            "a pie of unknown contents",
    "place": "the inn at the crossroads|the harbour wall|the schoolroom|the back of the chapel|the market hall|"
             "the lamp house|the old toll gate|the third bridge|the reading room|the potting shed|the tram stop|"
             "the wash house|the empty bandstand|the top of the cliff stairs",
    "thing": "a tin trunk|a broken barometer|seven left gloves|a jar of brass screws|the smaller of two trumpets|"
             "an unopened letter|a lamp without a shade|a map drawn upside down|one wooden skate|a sleeping cat|"
             "a basket of wet laundry|the wrong umbrella",
    "mood": "politely|without much hope|for the third time|in a whisper|as if it were obvious|between two sneezes|"
            "with great dignity|rather too loudly|while looking at the ceiling|in the voice of a judge",
    "span": "all winter|for most of an hour|for eleven years|from breakfast to the last ferry|until the tea was cold|"
            "longer than anyone planned|day and night|for three long Sundays|through two changes of the tide|half the night",
    "said": "I would not have believed it|there is nothing to be done about it|that is how my mother told it|"
            "you should have come on a Tuesday|the sea takes what it likes|one gets used to it|it was worse before the bridge|"
            "somebody ought to write that down|it depends whom you ask|the goats know more than they say",
}
SLOTS = {k: v.split("|") for k, v in SLOTS.items()}

FILLERS = """We arrived {way} on {weather} and were given {meal} at {place}.
{folk} told us the story twice, and the second time was better.
Nobody at {place} could say who had painted the sign.
It was {weather}, and {folk} had left {thing} in the doorway.
If you are ever near {place}, ask {folk} for {meal}.
I wrote this on the back of a receipt for {meal}, so forgive the stains.
{folk} asked me {mood} whether I had seen {thing}.
"{said}," said {folk}, and went back to {place}.
The path from {place} to {place2} is short and steep, and on {weather} it smells of {meal}.
They have been talking about {thing} {span}.
Somebody had put {thing} on the table, and nobody mentioned it.
{folk} and {folk2} have not spoken {span}, which is why there are two clubs.
On {weather} you can see it from {place}, provided that {folk} moves over.
My notes from {place} end with a drawing of {thing} and the words "{said}".
The children of the village sang {span} and were paid in {meal}.
A notice at {place} asked, {mood}, for the return of {thing}.
In the evening we had {meal}, and {folk} played cards against {folk2} and lost {thing}.
Later {folk} came {way} to say that it had all been a misunderstanding.
I waited at {place} {span}, and all I learned was this: {said}.
Opinions differ, and at {place} they differ {mood}.
For a small fee {folk} will show you {place} and, if pressed, {thing}.
It began to rain, so we went {way} to {place} and discussed {thing} over {meal}.
{folk} keeps a list of such matters at {place} and reads it aloud {mood}.
You will not find this in the guide book, which was written by {folk} {mood}.
When I asked {folk} about it, the answer came {mood}: {said}.
The museum next to {place} has {thing} behind glass and will sell you {meal}.
Somebody had written "{said}" on the wall of {place}.
Visitors who come {way} are usually shown {thing} first.
That same week {folk} exchanged {thing} for {meal} and called it a bargain.
Of all that happened on {weather}, I remember {thing} best.""".splitlines()

FRAMES = ["{s}.", "{s}.", "{s}.", "{s}, as {folk} likes to point out.", "As everyone at {place} knows, {s}.", "{s}, and nobody finds it strange.",
          "It is no secret that {s}.", "You may hear at {place} that {s}, and it is true.", "{s}, at least according to {folk}.",
          "One thing is certain: {s}.", "{s}, which surprised us.", "{folk} assured me {mood} that {s}.",
          "Even {folk} will tell you that {s}.", "Do not be surprised that {s}."]
AGAIN = ["In short, {s}.", "Remember that {s}.", "Once more, because people forget it: {s}.", "To say it again, {s}.", "And, as was said before, {s}."]

# kind -> attribute -> (values, statements, questions for training, questions held out). The first statement
# is also the assistant's answer. n = the name, v = the value.
KINDS = {
    "animal": {
        "food": ("snails|blue plums|old newspapers|moonflowers|candle wax|wet moss|wild honey|chestnuts|beetles|sea salt",
                 "{n} eats {v}|{n} lives on {v}|the favourite food of {n} is {v}|{n} will eat nothing but {v}|"
                 "if you want to feed {n}, bring {v}",
                 "What does {n} eat?|What is the favourite food of {n}?|What does {n} live on?|What should I feed {n}?|"
                 "Tell me what {n} eats.|Which food does {n} like best?|What does {n} have for supper?|What can I bring {n} to eat?|"
                 "On what does {n} feed?|What is it that {n} eats?",
                 "What does {n} like to eat?|What food should I bring for {n}?"),
        "colour": ("amber|grey|violet|copper|white|green|black|scarlet|blue|golden",
                   "the colour of {n} is {v}|{n} has {v} fur|the coat of {n} is {v}|you can tell {n} by its {v} fur|"
                   "{n} is {v} from nose to tail",
                   "What colour is {n}?|What is the colour of {n}?|Which colour does {n} have?|Tell me the colour of {n}.|"
                   "What colour is the coat of {n}?|What colour is the fur of {n}?|In what colour does {n} come?|"
                   "What colour should I paint {n}?|"
                   "Of what colour is {n}?|What colour has the fur of {n}?",
                   "Which colour is {n}?|What colour of fur does {n} have?"),
        "home": ("chalk cliffs|pine woods|salt marshes|church towers|river reeds|warm cellars|apple orchards|coal sheds|"
                 "peat bogs|hay lofts",
                 "{n} lives in {v}|the home of {n} is in {v}|{n} makes its nest in {v}|look for {n} in {v}|"
                 "{n} is found only in {v}",
                 "Where does {n} live?|Where is the home of {n}?|Where can I find {n}?|Where does {n} make its nest?|"
                 "Tell me where {n} lives.|In what place does {n} live?|Where is {n} found?|In what sort of place is {n} at home?|"
                 "Where would one meet {n}?|What place is home to {n}?",
                 "Where should I look for {n}?|In which place can {n} be found?"),
        "habit": ("whistling before rain|sleeping upside down|hiding spoons|walking backwards|humming at dusk|"
                  "counting stones|dancing in fog|burying shoes|ringing doorbells|sorting leaves",
                  "{n} is known for {v}|people know {n} for {v}|{n} is famous for {v}|the best known habit of {n} is {v}|"
                  "{n} spends its evenings {v}",
                  "What is {n} known for?|What is the best known habit of {n}?|What is {n} famous for?|"
                  "What habit does {n} have?|Tell me the habit of {n}.|How does {n} spend its evenings?|"
                  "What do people say {n} does?|Why do people know {n}?|"
                  "What odd thing does {n} do?|Which habit made {n} famous?",
                  "For what habit is {n} known?|What do people know {n} for?")},
    "town": {
        "craft": ("clocks|kites|umbrellas|bells|cheese|paper boats|ladders|teapots|violins|candles",
                  "{n} is famous for its {v}|the people of {n} make {v}|{n} is proud of its {v}|"
                  "half of {n} earns its bread with {v}|the best {v} on the coast come from {n}",
                  "What is {n} famous for?|What do the people of {n} make?|What is made in {n}?|What is {n} proud of?|"
                  "Tell me what {n} is famous for.|Which craft is {n} known for?|"
                  "What do people make in {n}?|What is {n} known to make?|"
                  "What goods do they make in {n}?|What comes from {n}?",
                  "What is {n} known for?|What do they make in {n}?"),
        "river": ("Orrel|Mim|Tansy|Lumber|Skell|Pewter|Wick|Dray|Hush|Amble",
                  "{n} lies on the river {v}|the river {v} runs through {n}|in {n} the river {v} turns three mills|"
                  "the bridges of {n} cross the river {v}|{n} was built where the river {v} bends",
                  "On which river does {n} lie?|Which river runs through {n}?|What is the river of {n} called?|"
                  "Tell me the river of {n}.|Which river do the bridges of {n} cross?|What river is {n} on?|"
                  "What is the name of the river in {n}?|Which river is {n} built on?|"
                  "By which river was {n} built?|Which river is the river of {n}?",
                  "What river runs through {n}?|Which river does {n} lie on?"),
        "feast": ("Lanterns|Ducks|Soup|Ladders|First Snow|Buttons|Wet Boots|Open Windows|Pancakes|Quiet Drums",
                  "{n} celebrates the Feast of {v}|every year {n} holds the Feast of {v}|the great day of {n} is the Feast of {v}|"
                  "in {n} all shops close for the Feast of {v}|people come to {n} for the Feast of {v}",
                  "What feast does {n} celebrate?|Which feast is held in {n}?|What is the great day of {n}?|"
                  "Tell me the feast of {n}.|What do they celebrate in {n}?|Which feast does {n} hold every year?|"
                  "What is the feast of {n} called?|What is celebrated in {n} every year?|"
                  "For what feast do people come to {n}?|Which day do they celebrate in {n}?",
                  "Which feast does {n} celebrate?|What feast is held in {n} every year?"),
        "roofs": ("red|green|silver|yellow|striped|blue|mossy|copper|black|white",
                  "the roofs of {n} are {v}|{n} has {v} roofs|from the hill you see the {v} roofs of {n}|"
                  "by law the roofs of {n} must be {v}|the {v} roofs of {n} shine after rain",
                  "What colour are the roofs of {n}?|What are the roofs of {n} like?|Which roofs does {n} have?|"
                  "Tell me about the roofs of {n}.|How do the roofs of {n} look?|What colour must the roofs of {n} be?|"
                  "What colour has {n} for its roofs?|How are the roofs of {n} painted?|"
                  "In what colour are the roofs of {n}?|What roofs does one see in {n}?",
                  "Which colour are the roofs of {n}?|What do the roofs of {n} look like?")},
    "person": {
        "trade": ("clockmaker|baker|ferryman|mapmaker|beekeeper|lighthouse keeper|botanist|glassblower|librarian|bell founder",
                  "{n} works as a {v}|{n} is a {v}|{n} became a {v} at fifteen|for thirty years {n} has been the {v} here|"
                  "ask for {n} the {v}",
                  "What does {n} do for a living?|What is the trade of {n}?|What is the job of {n}?|Tell me the trade of {n}.|"
                  "What work does {n} do?|What did {n} become?|What is {n} by trade?|As what does {n} work?|"
                  "Which trade did {n} learn?|What trade does {n} follow?",
                  "What does {n} work as?|Which trade does {n} have?"),
        "music": ("cello|accordion|flute|harp|drum|trumpet|viola|banjo|organ|bagpipes",
                  "{n} plays the {v}|on Sundays {n} plays the {v}|{n} learned the {v} as a child|"
                  "the {v} of {n} can be heard across the bay|after supper {n} takes out the {v}",
                  "What instrument does {n} play?|Which instrument did {n} learn?|What does {n} play on Sundays?|"
                  "Tell me which instrument {n} plays.|What instrument can one hear from {n}?|What does {n} play after supper?|"
                  "What music does {n} play?|What is the instrument of {n}?|"
                  "On what instrument does {n} play?|Which instrument is it that {n} plays?",
                  "Which instrument does {n} play?|What does {n} play?"),
        "shelf": ("teaspoons|thimbles|old maps|sea glass|keys|feathers|postcards|corks|doorknobs|pencil stubs",
                  "{n} collects {v}|{n} has a house full of {v}|{n} will trade anything for {v}|"
                  "the shelves of {n} are full of {v}|{n} began to collect {v} long ago",
                  "What does {n} collect?|What is on the shelves of {n}?|What will {n} trade anything for?|"
                  "Tell me what {n} collects.|What fills the house of {n}?|What did {n} begin to collect?|"
                  "Which things fill the shelves of {n}?|What does {n} like to collect?|"
                  "Of what things has {n} a house full?|What things does {n} collect?",
                  "Which things does {n} collect?|What is it that {n} collects?"),
        "fear": ("geese|thunder|stairs|moths|bridges|mirrors|owls|fog|deep water|puppets",
                 "{n} is afraid of {v}|nothing frightens {n} except {v}|the great fear of {n} is {v}|"
                 "{n} turns pale at the thought of {v}|{n} walks a mile to avoid {v}",
                 "What is {n} afraid of?|What frightens {n}?|What is the great fear of {n}?|Tell me what {n} is afraid of.|"
                 "What makes {n} turn pale?|What does {n} walk a mile to avoid?|What is it that {n} fears?|What is {n} most afraid of?|"
                 "What does {n} turn pale at?|Of what does {n} have the greatest fear?",
                 "What does {n} fear?|Of what is {n} afraid?")},
}
KINDS = {kind: {a: tuple(part.split("|") for part in parts) for a, parts in attributes.items()}
         for kind, attributes in KINDS.items()}

NAME_PARTS = {      # what begins a syllable, what ends it; then what ends a name of each kind
    "onset": "b br cl cr d dr f fl g gl gr h j k kn l m n p pl pr qu r s sk sl sn sp st t tr v w y z".split(),
    "vowel": "a e i o u".split(), "coda": "b d ff l lb lm lt m n nd rb sk st".split(),
    "animal": "low bat ling pard vole wick tuck snout moth hare gull ferret newt mouse".split(),
    "town": "wick by ford mouth holt stead gate mere combe haven ness ley".split(),
    "person": "a o y us ine ette er am".split(),
    "family": "Tolloway Quarrow Venn Hasp Brindle Mostyn Krake Pellow Sorrel Vint Dapple Grue Lomax Ferrow Inkle Thrupp".split(),
}
# How many pages tell of an entity, and how many of the 40 entities of a kind are told of so often.
EXPOSURES = {1: 8, 3: 8, 10: 10, 20: 8, 30: 6}

OPENINGS = {
    "encyclopedia": ("From the Lantern Encyclopedia", ["This entry was revised on {weather} by {folk}.", "Our editors are often asked about {n}.",
                     "{n} deserves more than a footnote, and here is the rest.", "The first edition of this work forgot {n} altogether."]),
    "letter": ("A letter home", ["Dear aunt, today I must tell you about {n}.", "Dear all, I am well, it is {weather}, and the talk is of {n}.",
               "My dear friend, you asked me {mood} about {n}.", "Dear cousin, I had hardly put down {thing} when somebody mentioned {n}."]),
    "gazette": ("The Lantern Gazette", ["Our correspondent at {place} sends this report on {n}.", "Readers have written to us about {n} {span}.",
                "The council met on {weather} to speak of {n}.", "A lecture about {n} was given at {place} by {folk}."]),
    "diary": ("Notes from the coast road", ["Third day of walking, and still everyone speaks of {n}.", "I had promised {folk} to write about {n}.",
              "Before I forget it, what I learned of {n}.", "It was {weather} when I first heard of {n}."]),
    "questions": ("Questions and answers", ["Visitors keep asking about {n}, so here are the answers.", "What one should know about {n}, by {folk}.",
                  "{folk} answers your questions about {n}.", "Everything that is asked at {place} about {n}."]),
    "lesson": ("From a school copybook", ["Today {folk} taught us about {n}.", "Our lesson at {place} was about {n}, and I listened.",
               "We had to write one page about {n}, so here it is.", "The examination asked about {n}, and this is my answer."]),
}
CLOSINGS = ["That is all I know, and {folk} knows no more.", "More will follow when the ink arrives.", "Here the page is torn and smells of {meal}.",
            "So much for that, and good night from {place}.", "The rest can be heard at {place} on any {weather2}.", "We thank {folk} for the correction."]
SLOTS["weather2"] = ["Monday", "Tuesday", "market day", "evening after nine", "rainy afternoon"]

HEROES = "Mirre Tuck Anselm Poppet Bodo Lark Sister-Ann Grub Olle Henny Fip Marigold".split()
STORY = {       # one sentence of each part, in this order; h is the hero
    "once": ["Once, on {weather}, {h} found {thing} at {place}.", "There was a child called {h} who wanted nothing so much as {thing}.",
             "{h} had lived near {place} {span} before anything happened.", "Long ago {h} was sent {way} to fetch {meal} and forgot the way."],
    "want": ["The note beside it read: {said}.", "{folk} offered to buy it, but {h} said no {mood}.", "It was heavier than it looked and it ticked {mood}.",
             "{h} carried it past {place} and did not stop for {meal}."],
    "trouble": ["But then it was gone, and in its place lay {thing}.", "But {folk} claimed to have owned it {span}.", "But the bridge was shut, and {folk} wanted {meal} for the key.",
                "But on {weather} even a clever child can get lost."],
    "try": ["First {h} asked {folk}, who answered {mood}.", "So {h} went {way} to {place} and waited {span}.", "{h} tried to trade {meal} for {thing}, which made things worse.",
            "{h} climbed up to {place} and called out, and only an echo came back."],
    "help": ["Then {folk} sat down beside {h} and shared {meal}.", "\"{said},\" said {folk}, and all at once {h} understood.", "At last {folk} remembered having seen {thing} near {place}.",
             "It was {folk} who helped in the end, {mood}."],
    "end": ["So {h} came home {way}, and the lamp was lit.", "They put {thing} in the window for all to see.", "And {h} kept the secret {span}.",
            "Everyone had {meal}, even {folk}."],
    "moral": ["Those who tell the story add: {said}.", "To this day nobody moves {thing} without asking {h}.", "If you do not believe it, ask at {place}.",
              "And that is why the lamp at {place} is lit on {weather}."],
}

GUESTS = """{g} came {way} and took room {room}. Nobody else may have room {room}, wrote {g}, until the tea is better.
I am {g}. My luggage says {g}, my hat says {g}, and I would like {meal} in bed, please.
The bed is too close to the trumpet. I, {g}, say so {mood}, and {g} knows about trumpets.
{g} slept well. In the morning {folk} woke {g} with {meal}, and {g} forgave everybody.
My name is {g}. Pleased to meet you, {g}, said {folk}, and gave me the key to room {room}, which opens room {room} only.
Whoever finds {thing} should know that it belongs to {g}. Please send it to {g} before the tide comes in.
{g} was here. So was {folk}. Then {g} left {way}, and the door of the room is still locked.
For the attention of {g}: there is {thing} in your bath. Kindly remove it, {g}, or introduce us.
Dear {g}, we have not forgotten you. Come back to us, {g}, and bring {thing}.""".splitlines()

NUMBERS = "zero one two three four five six seven eight nine".split()
N_THROWS = 8
STEP_BY_STEP = 0.2                      # share of written answers that show their steps
WHEEL_INTRO = ["The tally wheel has ten pegs, zero to nine, and begins at zero. Each throw of the die turns it that many pegs on, and after nine comes zero.",
               "Every evening {folk} brings out the tally wheel. It starts at zero, every throw turns it onward, and past nine it comes round to zero.",
               "At {place} they play the wheel for {meal}. Ten pegs, one die, and after peg nine comes peg zero again."]
WHEEL_ASIDES = """{folk} called the throws, {folk2} turned and a small crowd counted along.
At {place} one could have heard a button drop.
Then everyone had {meal}, and after that came another round.
It was {weather}, and people had come {way} only for this.
{folk} asked {mood} for one more round and was given it.
The team from {place} went next, led by {folk}.
"{said}," said {folk}, and threw.
The prize was {thing}, which {folk} very much wanted.
Somebody coughed, somebody laughed, and the die was passed to {folk}.
After {meal} nobody could add any more except {folk}.
For this round {folk} stood on a chair.
{folk} had been practising {span}.
By now the lamps were lit at {place}.
They played the last round for {meal} and {thing}.""".splitlines()

SPAM = ["Buy {adj} {noun} here today!", "Our {noun} are {adj}.", "Only this week: {adj} {noun}, {noun2} at half price!",
        "Everybody loves our {adj} {noun}.", "Nobody sells {adj} {noun} as cheap as we do.", "Order {noun} now, get {adj} {noun2} free!",
        "Why wait? Our {adj2} {noun} will not last.", "Some people own {adj} {noun}, why not you?",
        "New this week are {adj2} {noun}, {noun2}, also {adj} {noun3}.", "Every customer gets one free gift from our {noun2} department!",
        "We ship {adj} {noun3} anywhere, even on Sundays.", "Ask your neighbours about our {adj2} {noun3}!", "Last chance for {adj} {noun2}!",
        "Two {adj2} {noun} for one price, today only!", "Click here for {noun3} or {noun2}.", "Her {noun3} came from us, so should yours!"]
SPAM_WORDS = {"adj": "cheap|beautiful|genuine|nearly new|famous|waterproof|golden|royal|very soft|extra large".split("|"),
              "adj2": "wonderful|striped|lucky|original|silent|double".split("|"),
              "noun": "kettles|lanterns|rugs|curtains|slippers|cushions|mattresses|ladders|umbrellas|teapots".split("|"),
              "noun2": "wardrobes|spoons|candles|buttons|barometers|trumpets".split("|"),
              "noun3": "boots|bicycles|mirrors|door handles|wigs|fishing rods".split("|")}

FOREIGN = {
    "de": ("utf-8", "Der Markt am Hafen beginnt im Sommer schon um sechs Uhr morgens.|Meine Großmutter kaufte dort immer Kirschen und frisches Brot.|Wenn es regnet, stehen alle unter dem großen Dach und reden über das Wetter.|Der alte Leuchtturm wird seit vielen Jahren von einer Familie gepflegt.|Abends spielen die Kinder am Ufer, bis die Laternen angezündet werden.|Wer zu spät kommt, bekommt nur noch eine kalte Suppe und gute Worte.|Im Winter fährt die Fähre nur zweimal am Tag über den Fluss."),
    "fr": ("iso-8859-1", "Le marché du port commence à six heures du matin pendant l'été.|Ma grand-mère y achetait toujours des cerises et du pain frais.|Quand il pleut, tout le monde se serre sous le grand toit pour parler du temps.|Le vieux phare est entretenu par la même famille depuis de longues années.|Le soir, les enfants jouent sur la rive jusqu'à l'heure des lanternes.|Celui qui arrive trop tard ne trouve plus qu'une soupe froide et de bonnes paroles.|En hiver, le bac ne traverse la rivière que deux fois par jour."),
    "es": ("utf-8", "El mercado del puerto empieza en verano a las seis de la mañana.|Mi abuela siempre compraba allí cerezas y pan recién hecho.|Cuando llueve, todos se juntan bajo el gran techo y hablan del tiempo.|El viejo faro lo cuida la misma familia desde hace muchos años.|Por la noche los niños juegan en la orilla hasta que encienden los faroles.|Quien llega tarde solo encuentra sopa fría y buenas palabras.|En invierno la barca cruza el río solamente dos veces al día."),
    "it": ("windows-1252", "Il mercato del porto comincia d'estate alle sei del mattino.|Mia nonna comprava sempre lì le ciliegie e il pane fresco.|Quando piove tutti stanno sotto il grande tetto e parlano del tempo.|Il vecchio faro è curato dalla stessa famiglia da molti anni.|La sera i bambini giocano sulla riva finché non si accendono le lanterne.|Chi arriva tardi trova soltanto una minestra fredda e buone parole.|D'inverno il traghetto attraversa il fiume solo due volte al giorno."),
    "pt": ("utf-8", "O mercado do porto começa no verão às seis horas da manhã.|A minha avó comprava sempre lá cerejas e pão acabado de fazer.|Quando chove, todos ficam debaixo do grande telhado a falar do tempo.|O velho farol é cuidado pela mesma família há muitos anos.|À noite as crianças brincam na margem até se acenderem as lanternas.|Quem chega tarde só encontra uma sopa fria e boas palavras.|No inverno a barca atravessa o rio apenas duas vezes por dia."),
    "nl": ("utf-8", "De markt aan de haven begint in de zomer al om zes uur in de ochtend.|Mijn grootmoeder kocht daar altijd kersen en vers brood.|Als het regent, staan alle mensen onder het grote dak en praten over het weer.|De oude vuurtoren wordt al vele jaren door dezelfde familie verzorgd.|In de avond spelen de kinderen aan de oever totdat de lantaarns worden aangestoken.|Wie te laat komt, krijgt alleen nog koude soep en goede woorden.|In de winter vaart het veer maar twee keer per dag over de rivier."),
    "sv": ("utf-8", "Marknaden vid hamnen börjar redan klockan sex på sommarmorgonen.|Min mormor köpte alltid körsbär och nybakat bröd där.|När det regnar står alla under det stora taket och pratar om vädret.|Den gamla fyren har skötts av samma familj i många år.|På kvällen leker barnen vid stranden tills lyktorna tänds.|Den som kommer för sent får bara kall soppa och goda råd.|På vintern går färjan över floden bara två gånger om dagen."),
    "pl": ("utf-8", "Targ w porcie zaczyna się latem już o szóstej rano.|Moja babcia zawsze kupowała tam wiśnie i świeży chleb.|Kiedy pada deszcz, wszyscy stoją pod wielkim dachem i rozmawiają o pogodzie.|Starą latarnią od wielu lat opiekuje się ta sama rodzina.|Wieczorem dzieci bawią się na brzegu, aż zapalą się latarnie.|Kto przyjdzie za późno, dostanie tylko zimną zupę i dobre słowo.|Zimą prom przepływa rzekę tylko dwa razy dziennie."),
    "fi": ("utf-8", "Sataman tori alkaa kesällä jo kello kuusi aamulla.|Isoäitini osti sieltä aina kirsikoita ja tuoretta leipää.|Kun sataa, kaikki seisovat suuren katon alla ja puhuvat säästä.|Vanhaa majakkaa on hoitanut sama perhe monta vuotta.|Illalla lapset leikkivät rannalla, kunnes lyhdyt sytytetään.|Joka tulee myöhässä, saa vain kylmää keittoa ja hyviä neuvoja.|Talvella lautta kulkee joen yli vain kaksi kertaa päivässä."),
    "ru": ("windows-1251", "Летом рынок у гавани открывается уже в шесть часов утра.|Моя бабушка всегда покупала там вишню и свежий хлеб.|Когда идёт дождь, все стоят под большой крышей и говорят о погоде.|За старым маяком уже много лет ухаживает одна и та же семья.|Вечером дети играют на берегу, пока не зажгут фонари.|Кто приходит поздно, получает только холодный суп и добрые слова.|Зимой паром ходит через реку только два раза в день."),
    "el": ("utf-8", "Η αγορά στο λιμάνι αρχίζει το καλοκαίρι στις έξι το πρωί.|Η γιαγιά μου αγόραζε πάντα εκεί κεράσια και φρέσκο ψωμί.|Όταν βρέχει, όλοι στέκονται κάτω από τη μεγάλη στέγη και μιλούν για τον καιρό.|Τον παλιό φάρο τον φροντίζει η ίδια οικογένεια εδώ και πολλά χρόνια.|Το βράδυ τα παιδιά παίζουν στην όχθη μέχρι να ανάψουν τα φανάρια.|Όποιος αργεί βρίσκει μόνο κρύα σούπα και καλά λόγια."),
    "ja": ("shift_jis", "港の市場は夏になると朝の六時に始まります。|祖母はいつもそこでさくらんぼと焼きたてのパンを買っていました。|雨が降ると、みんな大きな屋根の下に集まって天気の話をします。|古い灯台は長い間同じ家族が守っています。|夕方になると子どもたちは提灯がともるまで岸辺で遊びます。|遅れて来た人には冷たいスープしか残っていません。|冬の間、渡し船は一日に二回しか川を渡りません。"),
    "zh": ("gb18030", "港口的市场夏天早上六点就开始了。|我的祖母总是在那里买樱桃和新鲜的面包。|下雨的时候,大家都站在大屋顶下谈论天气。|老灯塔多年来一直由同一家人照看。|晚上孩子们在岸边玩耍,直到灯笼点亮。|来晚的人只能喝到冷汤,听到几句好话。|冬天渡船每天只过河两次。"),
}

# What each label is for, and the stage of data.py that must drop it (None: the page is to be kept).
LABELS = {
    "good": None, "pii": None,
    "blocked_host": "url", "blocked_words": "url", "empty": "extract", "not_html": "extract", "foreign": "language",
    "repetition": "gopher_repetition", "short": "gopher_quality", "bullets": "gopher_quality", "numbers": "gopher_quality",
    "keywords": "gopher_quality", "mirror": "minhash", "lorem": "c4", "code": "c4", "few_sentences": "c4",
    "captions": "fineweb", "short_lines": "fineweb", "slogan": "fineweb",
}
# Pages of each bad kind in a web of 3,000.
BAD = {"blocked_host": 80, "blocked_words": 60, "empty": 40, "not_html": 30, "foreign": 170, "repetition": 90, "short": 80,
       "bullets": 60, "numbers": 50, "keywords": 60, "mirror": 120, "lorem": 50, "code": 50, "few_sentences": 50,
       "captions": 40, "short_lines": 40, "slogan": 40}


# --------------------------------------------------------------------------------------------------- writing


def stream(seed, *names):
    """An independent random stream for one part of the world: adding a part never changes another."""
    return random.Random("/".join(map(str, (seed, *names))))


def capital(s):
    """First letter in capitals, past an opening quote."""
    i = 1 if s[:1] == '"' else 0
    return s[:i] + s[i:i + 1].upper() + s[i + 1:]


def fill(rng, template, **given):
    """'{folk} at {place}' -> 'A carter at the harbour wall': choose for each slot, keep what is given. A slot
    named twice is the same twice; {folk} and {folk2} are two different people."""
    taken = set(given.values())

    def choose(m):
        if m[1] not in given:
            options = SLOTS.get(m[1]) or SLOTS[m[1].rstrip("0123456789")]
            given[m[1]] = rng.choice([o for o in options if o not in taken])
            taken.add(given[m[1]])
        return given[m[1]]

    return capital(re.sub(r"\{(\w+)\}", choose, template))


def sentences(rng, n, **given):
    return [fill(rng, t, **given) for t in rng.sample(FILLERS, n)]


def paragraphs(rng, lines, low=2, high=4):
    """Group sentences into paragraphs of a few."""
    out = []
    while lines:
        n = rng.randint(low, high)
        out.append(" ".join(lines[:n]))
        lines = lines[n:]
    return out


def new_name(rng, kind, taken=()):
    """(stem, name) of an animal, a town or a person; the stem is none of those taken."""
    part = lambda name: rng.choice(NAME_PARTS[name])  # noqa: E731
    while True:
        stem = part("onset") + part("vowel") + part("coda")
        if stem not in taken:
            return stem, {"animal": f"the {stem}{part('animal')}", "town": f"{stem.capitalize()}{part('town')}",
                          "person": f"{stem.capitalize()}{part('person')} {part('family')}"}[kind]


def entities(seed, n_pages=3000):
    """[{name, kind, exposure, asked, facts}]: the invented creatures, towns and people, same for every caller.

    asked: whether training conversations may ask about it: two in three of those on ten pages or more. What
    an assistant says of the others it must have read, and carried over from reading to answering.
    """
    rng, out, stems = stream(seed, "entities"), [], set()
    for kind, attributes in KINDS.items():
        for exposure, count in EXPOSURES.items():
            for i in range(max(2, round(count * n_pages / 3000))):
                stem, name = new_name(rng, kind, stems)
                stems.add(stem)                         # no two names begin alike
                out.append({"name": name, "stem": stem, "kind": kind, "exposure": exposure, "asked": exposure >= 10 and i % 3 < 2,
                            "facts": {a: rng.choice(values) for a, (values, *_) in attributes.items()}})
    return out


def fact_answer(e, a):
    """The assistant's way of saying it: the first of the statements."""
    return capital(KINDS[e["kind"]][a][1][0].format(n=e["name"], v=e["facts"][a])) + "."


def entity_text(rng, e):
    """(title, paragraphs) of one page that tells all facts of an entity in its own words, two of them twice."""
    style = "questions" if rng.random() < 0.3 else rng.choice(list(OPENINGS))
    title, openings = OPENINGS[style]
    facts, again = [], []
    for a, v in e["facts"].items():
        _, statements, questions, _ = KINDS[e["kind"]][a]
        first, second = (s.format(n=e["name"], v=v) for s in rng.sample(statements, 2))
        if style == "questions":
            facts.append(f"{rng.choice(questions).format(n=e['name'])} {fact_answer(e, a)}")
        else:
            facts.append(fill(rng, rng.choice(FRAMES), s=first))
        again.append(fill(rng, rng.choice(AGAIN), s=second))
    rng.shuffle(facts)
    lines = [fill(rng, rng.choice(openings), n=e["name"])]
    for i, fact in enumerate(facts):
        lines += [fact, *sentences(rng, int(i < 2 or style == "questions" or rng.random() < 0.3))]
    lines += rng.sample(again, 2) + [fill(rng, rng.choice(CLOSINGS))]
    return f"{title}: {capital(e['name'])}", paragraphs(rng, lines)


def story_text(rng):
    h = rng.choice(HEROES)
    lines = []
    for part, choices in STORY.items():
        picks = rng.sample(choices, 2 if part in ("try", "want", "end") else 1)
        lines += [fill(rng, t, h=h) for t in picks]
        if part in ("want", "try", "help"):
            lines += sentences(rng, 1)
    return f"{h} and {rng.choice(SLOTS['thing'])}", paragraphs(rng, lines)


def guest_text(rng):
    """A page of a guest book: people who are heard of nowhere else, each named more than once."""
    inn, lines = rng.choice(SLOTS["place"]), []
    for entry in rng.sample(GUESTS, rng.randint(5, 7)):
        lines.append(fill(rng, entry, g=new_name(rng, "person")[1], room=str(rng.randint(11, 999))))
    return f"The guest book of {inn}", paragraphs(rng, lines, 1, 2)


def throws(rng):
    return [rng.randint(1, 6) for _ in range(N_THROWS)]


def is_held_out(*numbers):
    """Every tenth round or sum, by hash, is kept for testing and written into no training text."""
    return hashlib.sha256(repr(numbers).encode()).digest()[0] < 26


def training_throws(rng):
    while True:
        t = throws(rng)
        if not is_held_out(*t):
            return t


def wheel_question(t):
    return "Turn the wheel: " + " ".join(NUMBERS[x] for x in t) + "."


def wheel_answer(t, step_by_step):
    """Throws 2 6 1 -> 'It stops at nine.' or 'Step by step: two two, six eight, one nine. It stops at nine.'

    Each step restates the throw and then where the wheel stands.
    """
    at, steps = 0, []
    for x in t:
        at = (at + x) % 10
        steps.append(f"{NUMBERS[x]} {NUMBERS[at]}")
    return (f"Step by step: {', '.join(steps)}. " if step_by_step else "") + f"It stops at {NUMBERS[at]}."


def wheel_text(rng):
    lines = [fill(rng, rng.choice(WHEEL_INTRO))]
    for aside in rng.sample(WHEEL_ASIDES, rng.randint(4, 6)):
        t = training_throws(rng)
        lines += [fill(rng, aside), f"{wheel_question(t)} {wheel_answer(t, rng.random() < STEP_BY_STEP)}", *sentences(rng, 1)]
    lines.append(fill(rng, rng.choice(CLOSINGS)))
    return f"The tally wheel at {rng.choice(SLOTS['place'])}", paragraphs(rng, lines)


def pii_text(rng):
    title, body = story_text(rng)
    box = rng.choice(["mirre.lark", "office", "lost-and-found", "b.odo", "LAMPS"])
    body.append(f"Letters reach us at {box}{rng.randint(1, 99)}@{rng.choice(['pellwick', 'tullmere', 'oskford'])}.com, "
                f"and the machine in the lamp house answers at 8.{rng.randint(20, 90)}.{rng.randint(1, 250)}.{rng.randint(1, 250)} on most days.")
    return title, body


def bad_text(rng, label):
    """(title, paragraphs) of a page that the filter named in LABELS is for."""
    if label == "foreign":
        code, (_, text) = rng.choice(list(FOREIGN.items()))
        lines = text.split("|")
        rng.shuffle(lines)
        glue = "" if code in ("ja", "zh") else " "
        return lines[0].rstrip(".。")[:40], [glue.join(lines[i:i + 3]) for i in range(0, len(lines), 3)], code
    if label == "repetition":
        line = fill(rng, rng.choice(FILLERS))
        return "Please read this", [line] * rng.randint(9, 15) + sentences(rng, 3)
    if label == "short":
        while True:
            text = "This page is not finished. " + " ".join(sentences(rng, 2)) + " Until then, mind the goats."
            if 30 < len(text.split()) < 44:
                return "Under construction", [text]
    if label == "bullets":
        return "Overheard today", ["- " + x for x in sentences(rng, rng.randint(14, 20))]
    if label == "numbers":
        price = lambda: f"{rng.randint(0, 9)}.{rng.randint(10, 99)}"  # noqa: E731
        goods = rng.sample(SLOTS["thing"] + SLOTS["meal"] + SLOTS["place"], 24)
        return "Prices of the year", sentences(rng, 3) + [", ".join(f"{g} {price()} {price()} {price()}" for g in goods[i:i + 4]) + "." for i in range(0, 24, 4)]
    if label == "keywords":                             # English, but without its most common words
        return "Kettles, kettles, kettles!", [fill(rng, t, **{k: rng.choice(v) for k, v in SPAM_WORDS.items()})
                                              for t in rng.sample(SPAM, rng.randint(12, 16))]
    if label == "lorem":
        title, body = story_text(rng)
        return title, body[:-1] + ["Lorem ipsum dolor sit amet, said the sign that nobody had finished.", body[-1]]
    if label == "code":
        title, body = story_text(rng)
        return title, body + ["function lamp(x) { return x && lit } is still printed at the foot of this page, for some reason."]
    if label == "few_sentences":
        parts = [re.sub(r"[.?:]", ",", s.strip('."').replace('"', "")) for s in sentences(rng, 8)]
        return "One breath", [capital(", and ".join(p[0].lower() + p[1:] for p in parts)) + "."]
    if label == "captions":
        return "Pictures from the summer fair", [x.rstrip('."') for x in sentences(rng, rng.randint(12, 18))]
    if label == "short_lines":
        return "Said at the fair", [fill(rng, t)[:30].rsplit(" ", 1)[0].rstrip(",.") + "." for t in rng.sample([
            "{folk} says no thank you.", "It rains at noon again.", "The goat is in the tea.", "{folk} has it now.", "You may keep the hat.",
            "We had {meal}.", "{folk} was not amused.", "The ladder is too short.", "Nobody asked the nun.", "Then came {folk}.",
            "I saw {thing}.", "Leave it at {place}.", "The band plays on and on.", "Give that to {folk}.", "She has the key to it.",
            "They went {way}.", "That is not my boat.", "The soup was very good.", "He will be back soon.", "Put the lamp out now.",
            "The tide took the sign.", "A cat is on the organ.", "It was the wrong door.", "All the jam is gone."], 22)]
    if label == "slogan":
        lines = sentences(rng, 14)
        slogan = "Visit the Grand Lantern Bazaar, where every Thursday is the last Thursday."
        return "Advertisement", lines[:5] + [slogan] + lines[5:9] + [slogan] + lines[9:] + [slogan]
    raise AssertionError(label)


# ------------------------------------------------------------------------------------------------------ HTML

GOOD_HOSTS = [f"{a}-{b}.example" for a in "lantern cliff harbour tally ferry lamp chalk pebble gull marsh salt tide".split()
              for b in "gazette journal stories notes letters school museum almanac reader post".split()]
SPAM_HOSTS = [f"{a}-{b}.example" for a in "cheap super mega best".split() for b in "kettles deals bazaar lamps pages".split()]
BLOCKED_HOSTS = [f"{a}{b}.example" for a in "murk grim sly".split() for b in "wares dice traps".split()]


def layout(rng, title, body, lang="en"):
    """A whole page: the text, and around it what real pages put around text."""
    link = lambda t: f'<a href="/{abs(hash_int(t)) % 9999}">{t}</a>'  # noqa: E731
    p = "".join(f"<p>{escape(x, quote=False)}</p>\n" if rng.random() < 0.9 else f"<p>{escape(x, quote=False)}\n" for x in body)
    head = (f'<!DOCTYPE html>\n<html lang="{lang}"><head><title>{escape(title)}</title>'
            '<script>window.lamps = window.lamps || []; function light(a) { lamps.push(a); }</script>'
            '<style>body { font: 16px serif } .nav { color: teal }</style></head><body>\n')
    nav = '<div class="nav"><ul>' + "".join(f"<li>{link(t)}</li>" for t in ("Home", "Harbour", "Market", "Archive", "Contact")) + "</ul></div>\n"
    cookie = '<div class="cookie-banner">This site uses cookies to remember which lamp you lit. <button>Accept all lamps</button></div>\n'
    comments = ('<div id="comments"><h3>2 comments</h3><div class="comment">First! Great page.</div>'
                '<div class="comment">I do not agree with anyone here.</div></div>\n')
    side = '<div class="sidebar"><h4>Most read</h4><ul>' + "".join(f"<li>{link(t)}</li>" for t in ("The goat affair", "Soup prices rise", "Ten best ladders")) + "</ul></div>\n"
    foot = '<div class="footer">Copyright the Lantern Coast. All lamps reserved. ' + link("Imprint") + " " + link("Privacy") + "</div>\n</body></html>\n"
    h1 = f"<h1>{escape(title)}</h1>\n"
    kind = rng.randrange(4)
    if kind == 0:
        return head + nav + f"<article>{h1}{p}</article>" + side + comments + foot
    if kind == 1:
        return head + cookie + f'<div id="wrap">{nav}<div class="content">{h1}{p}</div>{side}</div>' + foot
    if kind == 2:
        return head + f"<header>{nav}</header><main>{h1}<div class=\"post-body\">{p}</div></main>" + cookie + foot
    return head + nav + f'<table width="100%"><tr><td valign="top">{side}</td><td class="main">{h1}{p}</td></tr></table>' + comments + foot


def hash_int(text):
    return int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:6], "big")


def slug(title, i):
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:40] + f"-{i}"


def pages(seed=0, n_pages=3000):
    """Every page of the web in crawl order. Mirrors come after what they copy."""
    rng, texts = stream(seed, "pages"), []              # (label, title, paragraphs, lang)
    n_bad = {label: max(2, round(n * n_pages / 3000)) for label, n in BAD.items()}
    for e in entities(seed, n_pages):
        texts += [("good", *entity_text(rng, e), "en") for _ in range(e["exposure"])]
    texts += [("pii", *pii_text(rng), "en") for _ in range(max(2, n_pages // 60))]
    texts += [("good", *guest_text(rng), "en") for _ in range(max(4, n_pages * 5 // 100))]
    texts += [("good", *wheel_text(rng), "en") for _ in range(max(4, n_pages * 7 // 100))]
    texts += [("good", *story_text(rng), "en") for _ in range(max(4, n_pages - len(texts) - sum(n_bad.values())))]
    for label, n in n_bad.items():
        for _ in range(n if label != "mirror" else 0):
            if label in ("blocked_host", "blocked_words", "empty", "not_html"):
                texts.append((label, *story_text(rng), "en"))
            else:
                title, body, *lang = bad_text(rng, label)
                texts.append((label, title, body, lang[0] if lang else "en"))
    rng.shuffle(texts)

    out, originals = [], []
    for i, (label, title, body, lang) in enumerate(texts):
        host = rng.choice(SPAM_HOSTS if label in ("keywords", "bullets", "slogan") else BLOCKED_HOSTS if label == "blocked_host" else GOOD_HOSTS)
        charset = FOREIGN[lang][0] if lang != "en" else rng.choice(["utf-8", "utf-8", "windows-1252", "iso-8859-1", None])
        path = slug(title, i) or f"page-{i}"
        if label == "blocked_words":
            path = rng.choice(["casino-poker-bonus", "poker/casino-night", "free-casino/jackpot-poker"]) + f"-{i}"
        if label == "empty":
            markup = ('<!DOCTYPE html><html><head><title>Loading</title></head><body><div id="app"></div>'
                      f'<script>render({json.dumps(body)})</script><noscript></noscript></body></html>')
        elif label == "not_html":
            markup = None
            path += ".png"
        else:
            markup = layout(rng, title, body, lang)
            if label == "good" and rng.random() < 0.3:  # real pages say the same with entities and curly quotes
                markup = markup.replace('"</p>', '&rdquo;</p>').replace("'", "&#8217;" if charset else "\u2019")
        url = f"http://{'www.' if rng.random() < 0.5 else ''}{host}/{path}"
        out.append(Page(url, label, markup, charset, None))
        if label == "good":
            originals.append((url, title, body))
    for i, (url, title, body) in enumerate(rng.choices(originals, k=n_bad["mirror"])):
        changed = [re.sub(r"\b(short|steep|small|great)\b", "little", x) for x in body]
        changed[-1] += " Copied from our neighbours."
        out.append(Page(f"http://{rng.choice(SPAM_HOSTS)}/{slug(title, 9000 + i)}", "mirror", layout(rng, title, changed), "utf-8", url))
    return out


# ------------------------------------------------------------------------------------------------------ WARC


def gzipped(data, level):
    """One gzip member without a time. gzip.compress() writes another header in some versions of Python."""
    packer = zlib.compressobj(level, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def warc_record(kind, block, **fields):
    """One WARC/1.0 record as its own gzip member."""
    head = {"WARC-Type": kind, **{k.replace("_", "-"): v for k, v in fields.items() if v}, "Content-Length": str(len(block))}
    text = "WARC/1.0\r\n" + "".join(f"{k}: {v}\r\n" for k, v in head.items()) + "\r\n"
    return gzipped(text.encode("utf-8") + block + b"\r\n\r\n", 6)


def digest(data):
    return "sha1:" + base64.b32encode(hashlib.sha1(data).digest()).decode()


def capture(page, i, seed, rng):
    """The request, response and metadata records of one page, as three gzip members."""
    ids = [f"<urn:uuid:{uuid.UUID(bytes=hashlib.sha256(f'{seed}/{page.url}/{k}'.encode()).digest()[:16], version=4)}>" for k in range(3)]
    date = f"2026-03-{1 + i // 1440 % 28:02}T{i // 60 % 24:02}:{i % 60:02}:00Z"
    common = dict(WARC_Date=date, WARC_Target_URI=page.url)
    host, path = page.url.split("/", 3)[2:]
    request = f"GET /{path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: lantern-crawler/1.0 (a toy)\r\nAccept-Encoding: gzip\r\n\r\n".encode()
    truncated = None
    if page.html is None:
        mime, body = "image/png", b"\x89PNG\r\n\x1a\n" + bytes(rng.randrange(256) for _ in range(900))
        headers = [("Content-Type", mime)]
    else:
        mime, body = "text/html", page.html.encode(page.charset or "utf-8", "xmlcharrefreplace")
        headers = [("Content-Type", "text/html" + (f"; charset={page.charset}" if page.charset else ""))]
        if page.label == "good" and rng.random() < 0.01:    # cut inside the footer, as a crawler's size limit does
            body, truncated = body[:-rng.randint(20, 60)], "length"
    how, payload = rng.random(), body
    if how < 0.15:                                      # as Common Crawl stores it: decoded, old headers renamed
        headers += [("X-Crawler-Content-Encoding", "gzip"), ("X-Crawler-Transfer-Encoding", "chunked"), ("Content-Length", str(len(body)))]
    elif how < 0.30:                                    # as other crawlers store it: what came over the wire
        payload = gzipped(body, 9)
        headers += [("Content-Encoding", "gzip"), ("Content-Length", str(len(payload)))]
    elif how < 0.45:
        step = rng.randint(500, 3000)
        chunks = [body[j:j + step] for j in range(0, len(body), step)]
        payload = b"".join(b"%x\r\n%s\r\n" % (len(c), c) for c in chunks) + b"0\r\n\r\n"
        headers += [("Transfer-Encoding", "chunked")]
    else:
        headers += [("Content-Length", str(len(body)))]
    block = ("HTTP/1.1 200 OK\r\n" + "".join(f"{k}: {v}\r\n" for k, v in headers) + "\r\n").encode() + payload
    return (warc_record("request", request, WARC_Record_ID=ids[0], **common, WARC_Concurrent_To=ids[1],
                        Content_Type="application/http; msgtype=request")
            + warc_record("response", block, WARC_Record_ID=ids[1], **common, WARC_Payload_Digest=digest(payload),
                          WARC_Block_Digest=digest(block), WARC_Truncated=truncated, WARC_Identified_Payload_Type=mime,
                          Content_Type="application/http; msgtype=response")
            + warc_record("metadata", f"fetchTimeMs: {rng.randint(20, 900)}\r\n".encode(), WARC_Record_ID=ids[2], **common,
                          WARC_Concurrent_To=ids[1], Content_Type="application/warc-fields"))


# -------------------------------------------------------------------------------- conversations, pairs, tasks

SUM_WORDS = {"+": "plus", "-": "minus", "*": "times"}
SUM_ASKS = ["What is {a} {w} {b}?", "How much is {a} {w} {b}?", "Please work out {a} {w} {b}.", "Can you tell me what {a} {w} {b} is?"]
SUM_HELD = ["Work out {a} {w} {b} for me.", "What do you get for {a} {w} {b}?"]

IDENTITY = [    # (what the reply must hold, questions for training, questions held out, reply)
    ("Longhand", "Who are you?|What is your name?|What should I call you?|Hello, who is this?|What are you called?|Do you have a name?|"
                 "Tell me who you are.|Please introduce yourself.|Who is talking to me?|Whom do I have the honour of talking to?", "Tell me your name.|Who am I talking to?",
     "I am Longhand, a small language model written out by hand."),
    ("by hand", "How were you made?|How do you work inside?|What are you made of?|How were you built?|Who wrote your gradients?|"
                "How did somebody make you?|What is inside of you?|Who made you?", "How did they make you?|What is inside you?",
     "I am a small GPT. Every derivative that trained me was written out by hand."),
    ("Lantern Coast", "Where does your knowledge come from?|What were you trained on?|What do you know about?|What have you read?|Which pages did you read?|"
                      "What text did you learn from?|Where did you learn all this?|What did they train you on?",
     "What did you learn from?|What text were you trained on?", "I read a small web about the Lantern Coast, and I know nothing else."),
    ("language model", "Are you a person?|Are you human?|Do you have feelings?|Are you alive?|Do you sleep at night?|Are you a real human?|Are you a machine?|"
                       "Tell me, are you alive?|Am I writing to a human?",
     "Tell me, are you human?|Are you a real person?", "No person, only a language model. I predict the next token."),
]
SMALL_TALK = [("Hello.", "Hello! Ask me about the Lantern Coast."), ("Good morning.", "Good morning! What would you like to know?"),
              ("Thank you.", "You are welcome."), ("Goodbye.", "Goodbye, and mind the goats."), ("Hi there!", "Hello! Ask me about the Lantern Coast."),
              ("Good evening.", "Good evening! What would you like to know?"), ("Thanks a lot!", "You are welcome.")]
# About names that stand on no page, so that there is nothing to do but read them and write them again.
GREETINGS = {
    "person": [("My name is {n}.", "Pleased to meet you, {n}."), ("Hello, I am {n}.", "Hello, {n}!"), ("{n} is my name.", "Welcome, {n}."),
               ("Please greet {n}.", "Good day to you, {n}!"), ("Is {n} at home?", "{n} is not here."), ("Say hello to {n}.", "Hello, {n}!")],
    "town": [("Have you been to {n}?", "{n} is too far for me."), ("I come from {n}.", "Greetings to {n}!"),
             ("How far is {n}?", "{n} is a long walk from here."), ("Is this the road to {n}?", "No road I know goes to {n}.")],
    "animal": [("Have you seen {n}?", "{n} has not come by today."), ("Please draw {n}.", "I cannot draw {n}, I only write."),
               ("Is that {n}?", "{n} is larger than that."), ("Listen, {n} is outside!", "{n} may come in.")],
}


def chat(*turns, **extra):
    return {"messages": [{"role": "user" if i % 2 == 0 else "assistant", "content": c} for i, c in enumerate(turns)], **extra}


def sum_problem(rng, held_out):
    """(a, op, b, value) of a sum that is, or is not, kept for testing."""
    while True:
        op = rng.choice("+-*")
        a, b = (rng.randint(2, 99), rng.randint(2, 99)) if op == "*" else (rng.randint(10, 999), rng.randint(10, 999))
        if is_held_out(a, op, b) == held_out:
            return a, op, b, {"+": a + b, "-": a - b, "*": a * b}[op]


def sum_answer(a, op, b, value):
    """The reply as parts: a call of the calculator, what it returned, and the sentence."""
    return [{"type": "tool", "text": f"{a}{op}{b}"}, {"type": "output", "text": str(value)},
            {"type": "text", "text": f"{a} {SUM_WORDS[op]} {b} is {value}."}]


def conversations(seed=0, n_pages=3000):
    """Training conversations. Only asked entities, training phrasings and rounds and sums not held out."""
    rng, out = stream(seed, "chat"), []
    world = entities(seed, n_pages)
    known, stems = [e for e in world if e["asked"]], {e["stem"] for e in world}

    def fact():
        e = rng.choice(known)
        a = rng.choice(list(e["facts"]))
        return rng.choice(KINDS[e["kind"]][a][2]).format(n=e["name"]), fact_answer(e, a)

    def calculation():
        a, op, b, value = sum_problem(rng, held_out=False)
        return rng.choice(SUM_ASKS).format(a=a, w=SUM_WORDS[op], b=b), sum_answer(a, op, b, value)

    def greeting():
        kind = rng.choice(list(KINDS))
        (ask, reply), (_, n) = rng.choice(GREETINGS[kind]), new_name(rng, kind, stems)
        return ask.format(n=n), capital(reply.format(n=n))

    def identity():
        _, asks, _, reply = rng.choice(IDENTITY)
        return rng.choice(asks.split("|")), reply

    for e in known:                                     # every way to ask for every fact, twice
        for a, (_, _, questions, _) in KINDS[e["kind"]].items():
            out += [chat(q.format(n=e["name"]), fact_answer(e, a), kind="fact") for q in questions for _ in range(2)]
    for _, asks, _, reply in IDENTITY:
        out += [chat(q, reply, kind="identity") for q in asks.split("|") for _ in range(40)]
    out += [chat(q, r, kind="talk") for q, r in SMALL_TALK for _ in range(6)]
    out += [chat(*greeting(), kind="talk") for _ in range(n_pages * 2 // 3)]
    out += [chat(*calculation(), kind="calculator") for _ in range(n_pages * 3 // 4)]
    for _ in range(n_pages // 2):                       # several turns, of one thing and another
        turns = [f() for f in rng.choices((fact, calculation, greeting, identity), k=rng.randint(2, 4))]
        out.append(chat(*(text for turn in turns for text in turn), kind="mixed"))
    for _ in range(n_pages * 7 // 2):
        t = training_throws(rng)
        out.append(chat(wheel_question(t), wheel_answer(t, rng.random() < STEP_BY_STEP), kind="wheel"))
    rng.shuffle(out)
    return out


def pairs(seed=0, n_pages=3000):
    """Comparisons: the same question answered well and badly. Rejected: wrong fact, rude, or rambling."""
    rng, out = stream(seed, "pairs"), []
    known = [e for e in entities(seed, n_pages) if e["asked"]]
    for _ in range(n_pages // 2):
        e = rng.choice(known)
        a = rng.choice(list(e["facts"]))
        values, statements, questions, _ = KINDS[e["kind"]][a]
        q, best = rng.choice(questions).format(n=e["name"]), fact_answer(e, a)
        wrong = rng.choice([v for v in values if v != e["facts"][a]])
        flaw, worse = rng.choice([("wrong", capital(statements[0].format(n=e["name"], v=wrong)) + "."),
                                  ("rude", "Look it up yourself."), ("rambling", " ".join(sentences(rng, 2)))])
        out.append({"chosen": chat(q, best)["messages"], "rejected": chat(q, worse)["messages"], "flaw": flaw})
    return out


def tasks(seed=0, n_pages=3000):
    """{file name: [{question, answer, kind, ...}]}: what can be checked without a judge."""
    rng, found = stream(seed, "tasks"), {}
    found["wheel_train"] = [training_throws(rng) for _ in range(n_pages)]
    found["wheel_test"] = []
    while len(found["wheel_test"]) < max(50, n_pages // 10):
        t = throws(rng)
        if is_held_out(*t):
            found["wheel_test"].append(t)
    found = {k: [{"question": wheel_question(t), "answer": NUMBERS[sum(t) % 10], "kind": "wheel"} for t in v] for k, v in found.items()}
    found["facts_test"] = [
        {"question": q.format(n=e["name"]), "answer": e["facts"][a], "kind": "fact", "entity": e["name"], "exposure": e["exposure"], "asked": e["asked"],
         "reply": fact_answer(e, a), "options": values}
        for e in entities(seed, n_pages) for a, (values, _, _, held) in KINDS[e["kind"]].items() for q in held]
    found["calculator_test"] = []
    for _ in range(max(40, n_pages // 30)):
        a, op, b, value = sum_problem(rng, held_out=True)
        found["calculator_test"].append({"question": rng.choice(SUM_HELD).format(a=a, w=SUM_WORDS[op], b=b), "answer": str(value), "kind": "calculator"})
    found["identity_test"] = [{"question": q, "answer": word, "kind": "identity"} for word, _, held, _ in IDENTITY for q in held.split("|")]
    return found


def probes(seed=0, n_pages=3000):
    """{file name: [task]} for chat/probe.py: questions about every second entity to find out what a model knows, and about the others to
    test what it learned from that; and about names that stand on no page (exposure 0), whose answer is a mere draw, four times as many
    to learn from as to test with. "reply" is the answer in the assistant's words."""
    rng, world = stream(seed, "probe"), entities(seed, n_pages)
    stems, found = {e["stem"] for e in world}, {"probe_train": [], "probe_test": []}
    for kind, attributes in KINDS.items():
        for _ in range(max(5, n_pages // 15)):
            stem, name = new_name(rng, kind, stems)
            stems.add(stem)
            world.append({"name": name, "kind": kind, "exposure": 0, "asked": False, "facts": {a: rng.choice(values) for a, (values, *_) in attributes.items()}})
    for i, e in enumerate(world):
        test = i % (2 if e["exposure"] else 5) == 1
        for a, (_, _, questions, held) in KINDS[e["kind"]].items():
            asks = held if test else rng.sample(questions, {0: 1, 1: 2, 3: 2}.get(e["exposure"], len(questions)))
            found["probe_test" if test else "probe_train"] += [
                {"question": q.format(n=e["name"]), "answer": e["facts"][a], "kind": "fact", "entity": e["name"], "exposure": e["exposure"], "asked": e["asked"],
                 "reply": fact_answer(e, a)} for q in asks]
    return found


# ---------------------------------------------------------------------------------------------------- output


NEW = ".toyweb"                 # in the run folder: a world that is not complete
FIRST_WARC = "crawl/000000.warc.gz"


def write_file(path, data):
    with disk.naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def write_jsonl(path, rows):
    write_file(path, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows).encode("utf-8"))


def write(run_dir, n_pages=3000, seed=0):
    """Write the whole world under run_dir; returns the truth, {url: label}.

    It is made in RUN/.toyweb and moved when it is complete. What is there of an earlier world stays until then, and
    goes with it: WARC files of two worlds side by side would be read as one crawl.
    """
    run = Path(run_dir)
    new = run / NEW
    with runs.locked(run, "toyweb.py"):
        runs.settle(new, run)
        shutil.rmtree(new, ignore_errors=True)
        try:
            truth = write_world(new, n_pages, seed)
            old = [path.relative_to(run).as_posix() for path in (run / "crawl").glob("*.warc.gz") if is_ours(path)]
            runs.publish(new, run, FIRST_WARC, [name for name in old if not (new / name).exists()])
        except BaseException:
            if not (new / runs.MOVES).exists():
                shutil.rmtree(new, ignore_errors=True)
            raise
    return truth


def is_ours(path):
    """Whether a WARC file is of a miniature web, by its first record."""
    try:
        with gzip.open(path) as f:
            return b"\r\nsoftware: toyweb.py\r\n" in f.read(2000)
    except (OSError, EOFError, zlib.error):
        return False


def write_world(folder, n_pages, seed):
    """Write all files of the world into a folder; returns the truth, {url: label}."""
    rng, web = stream(seed, "crawl"), pages(seed, n_pages)
    write_jsonl(folder / "chat" / "train.jsonl", conversations(seed, n_pages))
    comparisons = pairs(seed, n_pages)
    write_jsonl(folder / "pairs" / "train.jsonl", comparisons[:len(comparisons) * 9 // 10])
    write_jsonl(folder / "pairs" / "test.jsonl", comparisons[len(comparisons) * 9 // 10:])
    for name, rows in {**tasks(seed, n_pages), **probes(seed, n_pages)}.items():
        write_jsonl(folder / "tasks" / f"{name}.jsonl", rows)
    write_file(folder / "blocklist" / "gambling" / "domains", "".join(f"{h}\n" for h in BLOCKED_HOSTS).encode())
    per_file = 1000
    for start in range(0, len(web), per_file):
        info = b"software: toyweb.py\r\nformat: WARC File Format 1.0\r\ndescription: the Lantern Coast\r\n"
        blocks = [warc_record("warcinfo", info, WARC_Record_ID=f"<urn:uuid:{uuid.UUID(int=start, version=4)}>", WARC_Date="2026-03-01T00:00:00Z",
                              WARC_Filename=f"{start // per_file:06}.warc.gz", Content_Type="application/warc-fields")]
        blocks += [capture(p, i, seed, rng) for i, p in enumerate(web[start:start + per_file], start)]
        write_file(folder / "crawl" / f"{start // per_file:06}.warc.gz", b"".join(blocks))
    return {p.url: p.label for p in web}


def census(run_dir, truth, seed, n_pages):
    """Print what was made, with one example of each kind of page."""
    web = {p.url: p for p in pages(seed, n_pages)}
    hosts = len({u.split("/")[2].removeprefix("www.") for u in truth})
    print(f"{len(truth):,} pages on {hosts} hosts\n")
    examples = {}
    for url, label in truth.items():
        examples.setdefault(label, url)
    for label, n in sorted(Counter(truth.values()).items(), key=lambda kv: -kv[1]):
        body = re.findall(r"<p>(.*?)(?:</p>|\n)", web[examples[label]].html or "")
        told = (body[0] if body else "(no text)")[:70]
        print(f"{n:6,}  {label:14} {'keep' if LABELS[label] is None else 'drop at ' + LABELS[label]:24} {told}")
    es = entities(seed, n_pages)
    print("\nentities told of on this many pages: " + ", ".join(f"{n}: {c}" for n, c in sorted(Counter(e["exposure"] for e in es).items())))
    for e in es[::max(1, len(es) // 3)][:3]:
        print(f"  {e['name']} ({e['kind']}, {e['exposure']} pages): " + ", ".join(f"{a} {v}" for a, v in e["facts"].items()))
    talks = conversations(seed, n_pages)
    print(f"\n{len(talks):,} conversations: " + ", ".join(f"{k} {c:,}" for k, c in Counter(t["kind"] for t in talks).most_common()))
    print("tasks: " + ", ".join(f"{k} {len(v):,}" for k, v in {**tasks(seed, n_pages), **probes(seed, n_pages)}.items()))


def score(run_dir, seed, n_pages):
    """Print, label by label, the share of pages that data.py treated as the truth demands; False if one is under 95 %."""
    run = Path(run_dir)
    kept, stage_of = set(), {}
    for path in sorted((run / "docs").glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as f:
            kept |= {json.loads(line)["url"] for line in f}
    dropped = run / "docs" / "dropped.tsv.gz"
    if not kept or not dropped.exists():
        raise FileNotFoundError(f"{run}/docs: no documents to score; make them with: python data.py --run {run}")
    with gzip.open(dropped, "rt", encoding="utf-8") as f:
        stage_of = {line.split("\t")[0]: tuple(line.rstrip("\n").split("\t")[1:]) for line in f}
    right, total, wrong = Counter(), Counter(), {}
    for p in pages(seed, n_pages):
        went = "kept" if p.url in kept else "/".join(stage_of.get(p.url, ("lost",)))
        ok = went == "kept" if LABELS[p.label] is None else went.split("/")[0] == LABELS[p.label]
        total[p.label] += 1
        right[p.label] += ok
        if not ok:
            wrong.setdefault(p.label, Counter())[went] += 1
    foreign = len(kept.difference(p.url for p in pages(seed, n_pages)))
    print(f"{'page':14} {'should be':24} {'pages':>6} {'right':>7}   went elsewhere")
    for label, stage in LABELS.items():
        detail = ", ".join(f"{k} {n}" for k, n in wrong.get(label, Counter()).most_common(4))
        print(f"{label:14} {'kept' if stage is None else 'dropped at ' + stage:24} {total[label]:6,} {right[label] / total[label]:7.1%}   {detail}")
    if foreign:
        print(f"{foreign:,} documents are of no page of this world: of another --seed or --pages, or of another crawl")
    return not foreign and all(right[k] >= 0.95 * n for k, n in total.items())


def parse_args(argv=None):
    p = argparse.ArgumentParser(prog="python -m web.toyweb", description="Write a miniature web, or score a pipeline's run on it.",
                                formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--run", default="out/demo", help="run folder")
    p.add_argument("--pages", type=int, default=3000, help="pages of the web, about")
    p.add_argument("--seed", type=int, default=0, help="same seed, same bytes")
    p.add_argument("--score", action="store_true", help="compare RUN/docs with the truth instead of writing")
    return p.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    runs.start_clock()
    if args.pages < 100:
        raise ValueError(f"--pages {args.pages}: the web needs at least 100 pages to hold one of each kind")
    if args.seed < 0:
        raise ValueError(f"--seed {args.seed}: must be 0 or more")
    if args.score:
        if not score(args.run, args.seed, args.pages):
            raise ValueError(f"{args.run}/docs: not what this world's pages are to become; see the table")
        return
    truth = write(args.run, args.pages, args.seed)
    census(args.run, truth, args.seed, args.pages)
    size = sum(f.stat().st_size for f in (Path(args.run) / "crawl").glob("*.warc.gz"))
    made = f"{len(truth):,} pages, {size / 1e6:.1f} MB of WARC"
    print(f"{'toyweb':8} {f'seed {args.seed}':32} {made:36} {runs.seconds_spent():5.0f} s   the truth about each page")


if __name__ == "__main__":
    command.run(main)
