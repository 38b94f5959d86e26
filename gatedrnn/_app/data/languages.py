"""Dates in eight languages: names of months and weekdays, ordinals, the words between."""

from collections.abc import Callable
from typing import NamedTuple


class Language(NamedTuple):
    """The words of one language, in the case in which it writes them."""

    months: tuple[str, ...]
    short_months: tuple[str, ...]
    weekdays: tuple[str, ...]  # from Monday
    short_weekdays: tuple[str, ...]
    day: Callable[[int], str]  # a day in a sentence
    ordinal: Callable[[int], str]  # a day as "the third"
    article: str  # before that
    of: str = " "  # between day, month and year


def _english(day: int) -> str:
    return f"{day}{'th' if 10 < day < 14 else {1: 'st', 2: 'nd', 3: 'rd'}.get(day % 10, 'th')}"


def _first(mark: str) -> Callable[[int], str]:
    """Only the first of a month is an ordinal."""
    return lambda day: f"1{mark}" if day == 1 else str(day)


def _marked(mark: str) -> Callable[[int], str]:
    return lambda day: f"{day}{mark}"


def _swedish(day: int) -> str:
    return f"{day}:{'a' if day in (1, 2, 21, 22, 31) else 'e'}"


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


LANGUAGES = {
    "English": Language(
        _words(
            "January February March April May June July August September October November December"
        ),
        _words("Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec"),
        _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday"),
        _words("Mon Tue Wed Thu Fri Sat Sun"),
        str,
        _english,
        "the",
    ),
    "German": Language(
        _words(
            "Januar Februar März April Mai Juni Juli August September Oktober November Dezember"
        ),
        _words("Jan. Feb. Mrz. Apr. Mai Jun. Jul. Aug. Sep. Okt. Nov. Dez."),
        _words("Montag Dienstag Mittwoch Donnerstag Freitag Samstag Sonntag"),
        _words("Mo Di Mi Do Fr Sa So"),
        _marked("."),
        _marked("."),
        "den",
    ),
    "French": Language(
        _words(
            "janvier février mars avril mai juin juillet août septembre octobre novembre décembre"
        ),
        _words("janv. févr. mars avr. mai juin juil. août sept. oct. nov. déc."),
        _words("lundi mardi mercredi jeudi vendredi samedi dimanche"),
        _words("lun. mar. mer. jeu. ven. sam. dim."),
        _first("er"),
        _first("er"),
        "le",
    ),
    "Spanish": Language(
        _words(
            "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre "
            "diciembre"
        ),
        _words("ene feb mar abr may jun jul ago sept oct nov dic"),
        _words("lunes martes miércoles jueves viernes sábado domingo"),
        _words("lun mar mié jue vie sáb dom"),
        str,
        _marked("º"),
        "el",
        " de ",
    ),
    "Italian": Language(
        _words(
            "gennaio febbraio marzo aprile maggio giugno luglio agosto settembre ottobre novembre"
            " dicembre"
        ),
        _words("gen feb mar apr mag giu lug ago set ott nov dic"),
        _words("lunedì martedì mercoledì giovedì venerdì sabato domenica"),
        _words("lun mar mer gio ven sab dom"),
        _first("º"),
        _first("º"),
        "il",
    ),
    "Dutch": Language(
        _words(
            "januari februari maart april mei juni juli augustus september oktober november "
            "december"
        ),
        _words("jan feb mrt apr mei jun jul aug sep okt nov dec"),
        _words("maandag dinsdag woensdag donderdag vrijdag zaterdag zondag"),
        _words("ma di wo do vr za zo"),
        str,
        _marked("e"),
        "de",
    ),
    "Portuguese": Language(
        _words(
            "janeiro fevereiro março abril maio junho julho agosto setembro outubro novembro "
            "dezembro"
        ),
        _words("jan fev mar abr mai jun jul ago set out nov dez"),
        _words("segunda-feira terça-feira quarta-feira quinta-feira sexta-feira sábado domingo"),
        _words("seg ter qua qui sex sáb dom"),
        _first("º"),
        _first("º"),
        "o",
        " de ",
    ),
    "Swedish": Language(
        _words(
            "januari februari mars april maj juni juli augusti september oktober november december"
        ),
        _words("jan. feb. mars apr. maj juni juli aug. sep. okt. nov. dec."),
        _words("måndag tisdag onsdag torsdag fredag lördag söndag"),
        _words("mån tis ons tors fre lör sön"),
        str,
        _swedish,
        "den",
    ),
}
