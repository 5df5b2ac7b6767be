"""The 119 languages and dialects of the Qwen3 release, with text in each.

Most text is Babel's locale data (names of months, days, countries, languages); for the languages that it lacks there
are sentences written here.
"""

from __future__ import annotations

_BY_FAMILY = {
    "Indo-European": """en English|fr French|pt Portuguese|de German|ro Romanian|sv Swedish|da Danish|bg Bulgarian
        |ru Russian|cs Czech|el Greek|uk Ukrainian|es Spanish|nl Dutch|sk Slovak|hr Croatian|pl Polish|lt Lithuanian
        |nb Norwegian Bokmål|nn Norwegian Nynorsk|fa Persian|sl Slovenian|gu Gujarati|lv Latvian|it Italian|oc Occitan
        |ne Nepali|mr Marathi|be Belarusian|sr Serbian|lb Luxembourgish|vec Venetian|as Assamese|cy Welsh|szl Silesian
        |ast Asturian|hne Chhattisgarhi|awa Awadhi|mai Maithili|bho Bhojpuri|sd Sindhi|ga Irish|fo Faroese|hi Hindi
        |pa Punjabi|bn Bengali|or Oriya|tg Tajik|yi Eastern Yiddish|lmo Lombard|lij Ligurian|scn Sicilian|fur Friulian
        |sc Sardinian|gl Galician|ca Catalan|is Icelandic|sq Tosk Albanian|li Limburgish|prs Dari|af Afrikaans
        |mk Macedonian|si Sinhala|ur Urdu|mag Magahi|bs Bosnian|hy Armenian""",
    "Sino-Tibetan": "zh_Hans Chinese (simplified)|zh_Hant Chinese (traditional)|yue Cantonese|my Burmese",
    "Afro-Asiatic": """ar Arabic (standard)|ars Arabic (Najdi)|apc Arabic (Levantine)|arz Arabic (Egyptian)
        |ary Arabic (Moroccan)|acm Arabic (Mesopotamian)|acq Arabic (Ta'izzi-Adeni)|aeb Arabic (Tunisian)|he Hebrew
        |mt Maltese""",
    "Austronesian": """id Indonesian|ms Malay|fil Tagalog|ceb Cebuano|jv Javanese|su Sundanese|min Minangkabau
        |ban Balinese|bjn Banjar|pag Pangasinan|ilo Iloko|war Waray""",
    "Dravidian": "ta Tamil|te Telugu|kn Kannada|ml Malayalam",
    "Turkic": "tr Turkish|az North Azerbaijani|uz Northern Uzbek|kk Kazakh|ba Bashkir|tt Tatar",
    "Tai-Kadai": "th Thai|lo Lao",
    "Uralic": "fi Finnish|et Estonian|hu Hungarian",
    "Austroasiatic": "vi Vietnamese|km Khmer",
    "Others": """ja Japanese|ko Korean|ka Georgian|eu Basque|ht Haitian|pap Papiamento|kea Kabuverdianu|tpi Tok Pisin
        |sw Swahili""",
}

_SENTENCES = {
    "hne": "तोर का नाव हे? मोर नाव रामू हे, मैं रायपुर म रहिथंव।",
    "awa": "तोहार नाम का है? हमार नाम सीता है, हम अवध मा रहित है।",
    "mag": "तोहर नाम की हई? हम गया में रहऽ ही।",
    "li": "Wie geit 't mit dich? Ich kal plat en wón in Mestreech, zoa't heurt.",
    "prs": "نام شما چیست؟ تشکر، من خوب هستم و در کابل زندگی می‌کنم.",
    "ars": "وش اسمك؟ أنا بخير، الله يسلمك، وين رايح اليوم؟",
    "apc": "كيفك؟ شو عم تعمل هلّق؟ بدّي روح عالسوق.",
    "arz": "إزيك؟ عامل إيه النهارده؟ أنا رايح الشغل دلوقتي.",
    "ary": "لاباس عليك؟ شنو كتدير ليوم؟ بغيت نمشي للسوق.",
    "acm": "شلونك؟ شكو ماكو؟ آني زين وأريد أروح للبيت.",
    "acq": "كيفك؟ أيش تشتي اليوم؟ أشتي أسير السوق.",
    "aeb": "شنوة أحوالك؟ آش تحب تعمل اليوم؟ باش نمشي للمرشي.",
    "min": "Apo kaba? Ambo pai ka pasa manjalang patang hari.",
    "ban": "Punapi gatrane? Titiang becik-becik kemanten. ᬳᬓ᭄ᬱᬭᬩᬮᬶ",
    "bjn": "Apa habar? Ulun handak tulak ka pasar baisukan.",
    "pag": "Antoy ngaran mo? Maong ak met, salamat ed sika.",
    "ilo": "Naimbag a bigat! Kumusta kayo? Agyamanak unay, kakabsat.",
    "war": "Maupay nga aga! Kumusta ka? Damo nga salamat ha iyo.",
    "ba": "Һаумыһығыҙ! Минең исемем Айҙар, һеҙҙең исемегеҙ нисек?",
}

LANGUAGES = [
    (entry.strip().partition(" ")[0], entry.strip().partition(" ")[2], family)
    for family, entries in _BY_FAMILY.items()
    for entry in entries.split("|")
]


def sentence(code: str) -> str:
    """A sentence for a language that Babel lacks, else nothing."""
    return _SENTENCES.get(code, "")


def babel_text(code: str) -> str:
    """Names of months, days, countries and languages; for a language that Babel lacks there must be a sentence."""
    from babel import Locale, localedata

    if not localedata.exists(code):
        assert code in _SENTENCES, code
        return ""
    locale = Locale.parse(code)
    names = [*locale.months["format"]["wide"].values(), *locale.days["format"]["wide"].values()]
    names += [*list(locale.territories.values())[:80], *list(locale.languages.values())[:80]]
    return ", ".join(names)
