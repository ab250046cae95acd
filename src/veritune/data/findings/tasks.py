"""What a question asks for, by plain rules that the card prints beside their counts.

Two labels: what is to be done (the first known verb among the first words), and what about
(the subject most of whose words the question has; of equal ones the first listed).
"""

from __future__ import annotations

import re

OTHER = "other"
COMPLETE = "complete a signature"
_FIRST_WORDS = 12
_LOOKED_AT_CHARACTERS = 2000
_WORD = re.compile(r"[a-z]+")
_SIGNATURE = re.compile(r"^[ \t]*(?:async )?(?:def|class) \w+.*:[ \t]*$", re.MULTILINE)

ACTIONS = {
    "write new code": "write create make build implement generate develop design define construct "
    "code program add set setup host",
    "operate a computer": "run execute automate schedule send start restart stop close kill switch "
    "empty install clone push launch toggle mute minimize maximize shut connect join record "
    "proceed log login upload click press type navigate",
    "compute a value": "calculate compute count determine estimate sum average convert measure "
    "evaluate predict solve simulate analyze analyse",
    "find or check": "find search check detect identify locate verify validate test compare "
    "monitor look track recognize classify",
    "change data": "change replace remove delete sort reverse transform format update rename "
    "organize organise turn merge split filter modify clean encrypt decrypt compress resize "
    "extract parse translate rewrite move copy",
    "read, fetch or show": "read print display show list fetch open get download load plot "
    "visualize visualise draw scrape retrieve import capture play",
    "repair": "fix debug resolve correct repair optimize optimise refactor improve handle",
    "explain": "explain describe what why tell summarize discuss",
    "help or advise": "help assist recommend suggest guide give provide let please",
}
SUBJECTS = {
    "machine learning": "model neural network train training classifier classification regression "
    "tensorflow pytorch keras sklearn clustering predict dataset features recognition learning nlp",
    "tables and plots": "pandas dataframe csv column columns plot chart graph visualize visualise "
    "histogram statistics statistical heatmap matplotlib seaborn excel xlsx spreadsheet analysis",
    "databases": "sql database sqlite mysql postgresql query queries mongodb orm",
    "the web": "website web webpage page url http https html scrape scraping api apis request "
    "requests download browser server flask django selenium youtube google link links online",
    "mail and messages": "email emails mail smtp message messages telegram discord slack sms "
    "whatsapp notification tweet twitter chat chatbot",
    "files and folders": "file files folder folders directory directories path json xml pdf txt "
    "jsonl zip archive filename backup document documents rename",
    "system and network": "system process processes cpu memory disk linux windows network port "
    "ports command commands shell terminal install package packages service ip ssh docker git "
    "packet packets wifi wireless battery screen",
    "security": "password passwords encrypt encryption decrypt hash cipher aes rsa security "
    "vulnerability key token authentication login",
    "images, sound and video": "image images photo photos picture video videos audio sound music "
    "opencv camera webcam pixel speech voice",
    "dates and times": "date dates time times day days week month year hour hours minutes "
    "schedule timer calendar clock weekday datetime timezone reminder",
    "text": "string strings text texts word words sentence sentences substring character "
    "characters letter letters vowels palindrome regex uppercase lowercase anagram paragraph",
    "algorithms": "algorithm tree binary graph stack queue linked recursion recursive node nodes "
    "shortest dynamic search sorting heap traversal complexity",
    "classes": "class classes object objects inheritance method methods attribute attributes "
    "instance subclass singleton",
    "lists and dictionaries": "list lists array arrays dictionary dictionaries dict tuple tuples "
    "set sets element elements item items index nested sorted sort iterable sequence",
    "numbers": "number numbers integer integers prime factorial fibonacci sum product average "
    "mean median digit digits square root matrix equation calculate odd even maximum minimum "
    "percentage area temperature interest random",
    "games": "game games player players gaming pygame score puzzle quiz dice",
}
_ACTION_OF = {word: action for action in reversed(ACTIONS) for word in ACTIONS[action].split()}
_SUBJECT_WORDS = {subject: frozenset(words.split()) for subject, words in SUBJECTS.items()}
_ALL_SUBJECT_WORDS = frozenset().union(*_SUBJECT_WORDS.values())


def action_of(question: str) -> str:
    """What is to be done."""
    head = question[:_LOOKED_AT_CHARACTERS]
    if _SIGNATURE.search(head):
        return COMPLETE
    for word in _WORD.findall(head.lower())[:_FIRST_WORDS]:
        if word in _ACTION_OF:
            return _ACTION_OF[word]
    return OTHER


def subject_of(question: str) -> str:
    """What it is about; of a question with a signature, what stands from there on."""
    head = question[:_LOOKED_AT_CHARACTERS]
    signature = _SIGNATURE.search(head)
    text = head[signature.start() :] if signature else head
    words = _ALL_SUBJECT_WORDS.intersection(_WORD.findall(text.lower()))
    if not words:
        return OTHER
    return max(_SUBJECT_WORDS, key=lambda subject: len(_SUBJECT_WORDS[subject] & words))
