"""What a page of HTML would read by itself: other files, or addresses on the network."""

import re
from html.parser import HTMLParser

READ_FROM = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src", "object": "data",
             "embed": "src", "video": "src", "audio": "src", "image": "href", "use": "href"}


class Requests(HTMLParser):
    """Every address that a page would read by itself, without those that hold their content (data:...)."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)
        for style in re.findall(r"<style[^>]*>(.*?)</style>", text, re.S):
            self.found += re.findall(r"@import[^;]*", style) + re.findall(r"url\(\s*['\"]?([^)'\"]*)", style)
        self.found = [address[:80] for address in self.found if not address.startswith("data:")]

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.found += [attributes[READ_FROM[tag]]] if READ_FROM.get(tag) in attributes else []
        self.found += re.findall(r"url\(([^)]*)\)", attributes.get("style") or "")
