"""The words of the page, in English and Japanese."""

from __future__ import annotations

from collections.abc import Mapping

_ENGLISH = {
    "title": "Search",
    "search": "Search",
    "query": "What are you looking for?",
    "skip": "Skip to the results",
    "mode": "Mode",
    "hybrid": "Meaning and words",
    "dense": "Meaning",
    "sparse": "Words (BM25)",
    "fulltext": "Words (full text)",
    "none": "Nothing found. Try other words, or fewer filters.",
    "found": "{count} passages",
    "best": "the best {count} passages",
    "filters": "Among these passages",
    "source": "Source",
    "language": "Language",
    "clear": "Remove the filter",
    "from": "From",
    "to": "To",
    "next": "Next",
    "previous": "Previous",
    "similar": "Similar passages",
    "similar_to": "Passages similar to one of {title}",
    "open": "Open in the document",
    "ranked": "Ranked by",
    "rank_dense": "meaning",
    "rank_sparse": "words",
    "rank_multi": "sentences",
    "author": "Author",
    "date": "Date",
    "original": "Original",
    "month": "Its month in Dagster",
    "back": "Back to the search",
    "log_in": "Log in",
    "log_out": "Log out",
    "log_out_everywhere": "Log out everywhere",
    "email": "Email address",
    "password": "Password",
    "wrong_login": "The address or the password is wrong, or there were too many attempts: wait a minute, or ask an administrator.",
    "expired_form": "This form is too old: please send it again.",
    "bad_link": "This link was used already, or is too old.",
    "keys": "API keys",
    "key_name": "What the key is for",
    "key_create": "Create a key",
    "key_made": "This key is shown only now:",
    "key_revoke": "Revoke",
    "key_used": "used {count} times",
    "key_none": "You have no keys.",
    "revoked": "revoked",
    "new_password": "New password, at least 12 characters",
    "change_password": "Change the password",
    "password_changed": "The password was changed. Other devices have to log in again.",
    "wrong_password": "The present password is wrong, or the new one has fewer than 12 characters.",
    "cached": "cached",
    "keyboard": "Keyboard: / search, j and k next and previous, Enter opens",
}

_JAPANESE = {
    "title": "検索",
    "search": "検索",
    "query": "何を探しますか",
    "skip": "検索結果へ移動",
    "mode": "検索方法",
    "hybrid": "意味と語",
    "dense": "意味",
    "sparse": "語(BM25)",
    "fulltext": "語(全文検索)",
    "none": "見つかりませんでした。別の言葉で探すか、絞り込みを減らしてください。",
    "found": "{count} 件",
    "best": "上位 {count} 件",
    "filters": "この中での絞り込み",
    "source": "ソース",
    "language": "言語",
    "clear": "絞り込みを解除",
    "from": "開始日",
    "to": "終了日",
    "next": "次へ",
    "previous": "前へ",
    "similar": "似た箇所",
    "similar_to": "「{title}」の一節に似た箇所",
    "open": "文書で開く",
    "ranked": "順位",
    "rank_dense": "意味",
    "rank_sparse": "語",
    "rank_multi": "文",
    "author": "著者",
    "date": "日付",
    "original": "元の文書",
    "month": "Dagster でこの月を見る",
    "back": "検索に戻る",
    "log_in": "ログイン",
    "log_out": "ログアウト",
    "log_out_everywhere": "すべての端末からログアウト",
    "email": "メールアドレス",
    "password": "パスワード",
    "wrong_login": "アドレスかパスワードが違うか、試行回数が多すぎます。1 分ほど待つか、管理者に相談してください。",
    "expired_form": "フォームの有効期限が切れています。もう一度送信してください。",
    "bad_link": "このリンクは使用済みか、有効期限が切れています。",
    "keys": "API キー",
    "key_name": "キーの用途",
    "key_create": "キーを作る",
    "key_made": "このキーが表示されるのは今だけです:",
    "key_revoke": "失効させる",
    "key_used": "{count} 回使用",
    "key_none": "キーはまだありません。",
    "revoked": "失効済み",
    "new_password": "新しいパスワード(12 文字以上)",
    "change_password": "パスワードを変更する",
    "password_changed": "パスワードを変更しました。ほかの端末では、もう一度ログインが必要です。",
    "wrong_password": "現在のパスワードが違うか、新しいパスワードが 12 文字未満です。",
    "cached": "キャッシュ",
    "keyboard": "キー操作: / 検索欄、j と k 次と前、Enter 開く",
}

TEXTS: Mapping[str, Mapping[str, str]] = {"en": _ENGLISH, "ja": _JAPANESE}


def language_of(accepted: str) -> str:
    """Return the language of the page that a browser's `Accept-Language` prefers."""
    preferred: list[tuple[float, str]] = []
    for part in accepted.split(",")[:20]:
        name, _, options = part.strip().partition(";")
        quality = options.strip().removeprefix("q=")
        try:
            preferred.append((-float(quality or 1), name.lower()[:2]))
        except ValueError:
            continue
    return next((name for _, name in sorted(preferred, key=lambda one: one[0]) if name in TEXTS), "en")
