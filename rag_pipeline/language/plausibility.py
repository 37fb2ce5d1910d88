"""How plausible a text is in a language, by its characters: it tells which of several readings of bytes is meant.

Each character costs about the negative logarithm of its share in texts of the language, so the cheapest reading is the
likeliest. It takes few characters: of the kanji of a name that is read wrongly, most are ones that nobody writes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache, partial

# Kanji of primary schools, and those that are frequent in names.
_FREQUENT_KANJI = frozenset(
    "一右雨円王音下火花貝学気九休玉金空月犬見五口校左三山子四糸字耳七車手十出女小上森人水正生青夕石赤千川先早草足村大男"
    "竹中虫町天田土二日入年白八百文木本名目立力林六引羽雲園遠何科夏家歌画回会海絵外角楽活間丸岩顔汽記帰弓牛魚京強教近"
    "兄形計元言原戸古午後語工公広交光考行高黄合谷国黒今才細作算止市矢姉思紙寺自時室社弱首秋週春書少場色食心新親図数西"
    "声星晴切雪船線前組走多太体台地池知茶昼長鳥朝直通弟店点電刀冬当東答頭同道読内南肉馬売買麦半番父風分聞米歩母方北毎"
    "妹万明鳴毛門夜野友用曜来里理話悪安暗医委意育員院飲運泳駅央横屋温化荷界開階寒感漢館岸起期客究急級宮球去橋業曲局銀"
    "区苦具君係軽血決研県庫湖向幸港号根祭皿仕死使始指歯詩次事持式実写者主守取酒受州拾終習集住重宿所暑助昭消商章勝乗植"
    "申身神真深進世整昔全相送想息速族他打対待代第題炭短談着注柱丁帳調追定庭笛鉄転都度投豆島湯登等動童農波配倍箱畑発反"
    "坂板皮悲美鼻筆氷表秒病品負部服福物平返勉放味命面問役薬由油有遊予羊洋葉陽様落流旅両緑礼列練路和愛案以衣位茨印英栄"
    "媛塩岡億加果貨課芽賀改械害街各覚潟完官管関観願岐希季旗器機議求泣給挙漁共協鏡競極熊訓軍郡群径景芸欠結建健験固功好"
    "香候康佐差菜最埼材崎昨札刷察参産散残氏司試児治滋辞鹿失借種周祝順初松笑唱焼照城縄臣信井成省清静席積折節説浅戦選然"
    "争倉巣束側続卒孫帯隊達単置仲沖兆低底的典伝徒努灯働特徳栃奈梨熱念敗梅博阪飯飛必票標不夫付府阜富副兵別辺変便包法望"
    "牧末満未民無約勇要養浴利陸良料量輪類令冷例連老労録圧囲移因永営衛易益液演応往桜可仮価河過快解格確額刊幹慣眼紀基寄"
    "規喜技義逆久旧救居許境均禁句型経潔件険検限現減故個護効厚耕航鉱構興講告混査再災妻採際在財罪殺雑酸賛士支史志枝師資"
    "飼示似識質舎謝授修述術準序招証象賞条状常情織職制性政勢精製税責績接設絶祖素総造像増則測属率損貸態団断築貯張停提程適"
    "統堂銅導得毒独任燃能破犯判版比肥非費備評貧布婦武復複仏粉編弁保墓報豊防貿暴脈務夢迷綿輸余容略留領歴胃異遺域宇映延沿"
    "恩我灰拡革閣割株干巻看簡危机揮貴疑吸供胸郷勤筋系敬警劇激穴券絹権憲源厳己呼誤后孝皇紅降鋼刻穀骨困砂座済裁策冊蚕至私"
    "姿視詞誌磁射捨尺若樹収宗就衆従縦縮熟純処署諸除承将傷障蒸針仁垂推寸盛聖誠舌宣専泉洗染銭善奏窓創装層操蔵臓存尊退宅担"
    "探誕段暖値宙忠著庁頂腸潮賃痛敵展討党糖届難乳認納脳派拝背肺俳班晩否批秘俵腹奮並陛閉片補暮宝訪亡忘棒枚幕密盟模訳郵優"
    "預幼欲翌乱卵覧裏律臨朗論"
    "藤伊斎渡辺沢浜之介郎彦樹翔悠菅須鈴那瀬塚尾脇堀杉柳桑榎荻葛篠椎梶鎌飛矢吉丸亀鶴龍竜虎駒隆智哲輝雅裕恵紗莉彩美咲葵蓮"
    "価込払締詳細互換併把握維削更含索抽御誰頼致届依紹株式及又維環境繰替範囲違項欄載掲契約項載添募催監督扱応我々丈夫遅延"
)
_OLD_FORMS = frozenset(
    "澤邊邉齋齊廣濱國櫻學會嶋嶌髙﨑桒瀨德惠眞榮壽彌禮冨曾假來藝實寶惣祐晋嵜櫛彅鷗繫麴々〆〇仝ヶヵ①②③④⑤⑥⑦⑧⑨㈱№℡㎡"
)
_WINDOWS_SIGNS = frozenset("～－∥￠￡￢")
"""Frequent signs of Shift_JIS that Windows has at other places of Unicode than EUC-JP."""
_FREQUENT_HANGUL = frozenset(
    "이다는의을에를가은한고하지로도사기리나자인시서어대정수일스과라부구전들아만성보제으면것그원장주신해있국상음무동조모안여비조유"
    "경중공세소용게선위치마할회화드행관분방우계발년미등명물실생체재요내개바연터적까오습니트단문교학와거없었했된될합데각점입문현"
    "같러말속열양던질통산력최당식업저간심반진야간의남북김박최강윤임한권황송류홍녕하쇼차번호름움직후추준청약접건검색락"
)
_FREQUENT_HANZI = frozenset(
    "的一是了我不人在他有这个上们来到时大地为子中你说生国年着就那和要她出也得里后自以会家可下而过天去能对小多然于心学么之都好看起"
    "发当没成只如事把还用第样道想作种开美总从无情己面最女但现前些所同日手又行意动方期它头经长儿回位分爱老因很给名法间斯知世什两次使"
    "身者被高已亲其进此话常与活正感见明问力理尔点文几定本公特做外孩相西果走将月十实向声车全信重三机工物气每并别真打太新比才便夫再书"
    "部水像眼等体却加电主界门利海受听表德少克代员许先口由死安写性马光白或住难望教命花结乐色数据库系统设计管客服务户网络件编程序"
    "這個們來時為說國後會過對學麼發還樣種開總從無長兒愛經間兩進話與見問點幾實聲車機氣並別書電門聽員許寫馬難結樂數據庫統設計"
)
_HALF_WIDTH = "\uff61-\uff9f"
_IMPOSSIBLE_KANA = re.compile(
    r"(?<![ｳｶ-ﾄﾊ-ﾎ])ﾞ|(?<![ﾊ-ﾎ])ﾟ|(?<![ｷｼﾁﾆﾋﾐﾘﾞﾟﾃﾌ])[ｬｭｮ]|(?<![ｳｼﾁﾂﾃﾄﾌﾞ])[ｧｨｩｪｫ]|(?<![ｦ-ﾟ])[ｯｰﾝ]|[ｯﾝ](?=[ｧ-ｯﾝ])|ｦ(?=[ｦ-ﾟ])"
    r"|(?<![\uff61-\uff9f])[､｣]"
)
_HALF_WIDTH_RUN = re.compile(f"[{_HALF_WIDTH}]+")
_LONE_HALF_WIDTH = re.compile(f"(?<![{_HALF_WIDTH}])[{_HALF_WIDTH}](?![{_HALF_WIDTH}])")
_WESTERN_LETTERS = frozenset("éèêëàâäáãåçñíìîïóòôöõøúùûüßæœÉÀÄÅÖÜØÇÑ")
_WESTERN_SIGNS = frozenset("’‘“”„‚‹›–—…•·«»°±×µ§©®™†€£¿¡²³½¼¾\u00a0")
_CENTRAL_LETTERS = frozenset("ąćęłńśźżčšžřůěďťňőűăşţđáéíóúýöüäôłĄĆĘŁŃÓŚŹŻČŠŽŘĎŤŇÁÉÍÓÚÖÜŐŰ")
_SIGN_IN_WORD = re.compile(r"(?<=[^\W\d_])[^\w\s\x00-\x7f’‘·–—…](?=[^\W\d_])|(?<=[^\W\d_])[ªº²³¹½¼¾](?=[^\W\d_])")
_ACCENTS = re.compile(r"[\u00c0-\u00ff]{3,}")
_CAPITAL_IN_WORD = re.compile(r"(?<=[^\W\d_A-Z])[À-ÞЀ-Я](?=[^\W\d_])|(?<=[a-zа-яё])[А-ЯЁ]")
_MIXED_WORD = re.compile(r"[A-Za-z](?=[Ѐ-ӿ])|[Ѐ-ӿ](?=[A-Za-z])")
_LETTER_FOR_SIGN = re.compile(r"[Łş](?:(?<=Ł)(?=\d)|(?<=\dş)(?![^\W\d_]))")
"""£5 and 1º as another code page of Windows reads them."""
_CYRILLIC = re.compile("[Ѐ-ӿ]")
_CYRILLIC_WORD = re.compile("[Ѐ-ӿ]{2}")
_NOT_PRINTED = 20.0

ASCII_COST = 3.0
"""What a character of ASCII costs in any language."""


def implausibility(text: str, language: str) -> float:
    """Return how little a text looks like the language: the sum over its characters, the lower the likelier.

    `language` is `ja`, `zh`, `ko`, `ru`, or one of the alphabets `western` and `central`. Characters of ASCII cost as
    much as in any other.
    """
    cost = _COSTS[language]
    counts = Counter(text)
    total = sum(
        (ASCII_COST if character < "\x80" else cost(character)) * count for character, count in counts.items()
    )
    return total + _OUT_OF_PLACE[language](text)


@cache
def _japanese(character: str) -> float:
    if "\u3041" <= character <= "\u3096":
        return 4.0
    if character in "、。":
        return 4.0
    if "\u30a1" <= character <= "\u30fc":
        return 5.0
    if "\uff61" <= character <= "\uff9f":
        if character in "ﾞｰ":
            return 2.5  # a kana that cannot have it costs more
        return 6.0 if character < "\uff66" else 4.2
    if character in _FREQUENT_KANJI or character in _WINDOWS_SIGNS:
        return 7.0
    if character in _OLD_FORMS or "ⅰ" <= character <= "ⅹ":
        return 9.5
    if "\u2500" <= character <= "\u257f":
        return 8.0  # a rule is a run of one of them
    row = _row(character, "euc_jp")
    if 0xA1 <= row <= 0xA3:
        return 7.0  # signs, and letters and digits as wide as kanji
    if 0xB0 <= row <= 0xCF:
        return 9.6
    if 0xA4 <= row <= 0xA8:
        return 10.0
    if 0xD0 <= row <= 0xF4:
        return 12.5
    return _NOT_PRINTED if not character.isprintable() or "\ue000" <= character <= "\uf8ff" else 13.5


@cache
def _chinese(character: str) -> float:
    if character in "，。、":
        return 4.0
    if character in _FREQUENT_HANZI:
        return 6.2
    if _row(character, "gb2312") in range(0xB0, 0xD8) or _row(character, "big5") in range(0xA4, 0xC7):
        return 8.4
    if _row(character, "gb2312") in range(0xA1, 0xA4):
        return 7.0
    if "\u4e00" <= character <= "\u9fff":
        return 13.0
    return 15.0 if character.isprintable() else _NOT_PRINTED


@cache
def _korean(character: str) -> float:
    if character in _FREQUENT_HANGUL:
        return 5.8
    if "\uac00" <= character <= "\ud7a3":
        # Python's euc_kr spells the others by their parts, after a byte of row 4.
        return 8.4 if 0xB0 <= _row(character, "euc_kr") <= 0xC8 else 15.0
    if _row(character, "euc_kr") in (0xA1, 0xA3):
        return 7.0
    return 13.0 if character.isprintable() else _NOT_PRINTED


@cache
def _russian(character: str) -> float:
    if character in "оеаинтсрвл":
        return 2.9
    if "а" <= character <= "я" or character == "ё":
        return 4.0 if character in "кмдпуяыьгзбчй" else 5.2
    if "А" <= character <= "Я" or character == "Ё":
        return 5.5
    return 8.0 if character in _WESTERN_SIGNS or character == "№" else 12.0


def _alphabetic(letters: frozenset[str], cost: float, character: str) -> float:
    if character in letters:
        return cost
    if character in _WESTERN_SIGNS:
        return 6.0
    if not character.isprintable():
        return _NOT_PRINTED
    return 8.5 if character.isalpha() else 10.0


def _row(character: str, encoding: str) -> int:
    """Return the first byte of a character in an encoding, that of `?` if it is not in it."""
    return character.encode(encoding, "replace")[0]


def _japanese_out_of_place(text: str) -> float:
    total = 10.0 * len(_IMPOSSIBLE_KANA.findall(text)) + 6.0 * len(_LONE_HALF_WIDTH.findall(text))
    return total + (2.0 if _HALF_WIDTH_RUN.search(text) else 0.0)


def _alphabet_out_of_place(text: str) -> float:
    runs = sum(len(run) for run in _ACCENTS.findall(text))
    signs = len(_SIGN_IN_WORD.findall(text))
    letters = len(_CAPITAL_IN_WORD.findall(text)) + len(_LETTER_FOR_SIGN.findall(text))
    return 6.0 * signs + 4.0 * (letters + runs)


def _russian_out_of_place(text: str) -> float:
    """Letters that all stand alone, as the accents of another alphabet do, are no Russian."""
    alone = 0 if _CYRILLIC_WORD.search(text) else len(_CYRILLIC.findall(text))
    return _alphabet_out_of_place(text) + 8.0 * len(_MIXED_WORD.findall(text)) + 4.0 * alone


def _nothing_out_of_place(_: str) -> float:
    return 0.0


_COSTS: Mapping[str, Callable[[str], float]] = {
    "ja": _japanese,
    "zh": _chinese,
    "ko": _korean,
    "ru": _russian,
    "western": partial(_alphabetic, _WESTERN_LETTERS, 4.5),
    "central": partial(_alphabetic, _CENTRAL_LETTERS, 5.0),
}
_OUT_OF_PLACE: Mapping[str, Callable[[str], float]] = {
    "ja": _japanese_out_of_place,
    "zh": _nothing_out_of_place,
    "ko": _nothing_out_of_place,
    "ru": _russian_out_of_place,
    "western": _alphabet_out_of_place,
    "central": _alphabet_out_of_place,
}
