package text

import (
	"errors"
	"io"

	"golang.org/x/net/html"
)

// maxToken is how much of a page may be one tag, one comment, or one text.
const maxToken = 4 << 20

// html takes the text out of a page, and beside it comments and the values of attributes.
func (x *extractor) html(r io.Reader) error {
	z := html.NewTokenizer(r)
	z.SetMaxBuf(maxToken)
	defer x.besides()
	for x.err == nil {
		switch z.Next() {
		case html.ErrorToken:
			switch err := z.Err(); {
			case errors.Is(err, io.EOF):
				_, _ = x.Write(z.Raw()) // a tag that does not end
				return nil
			case errors.Is(err, html.ErrBufferExceeded):
				x.unread(TooLarge)
				_, _ = x.Write(z.Buffered())
				x.copy(r)
				return nil
			default:
				return err
			}
		case html.TextToken:
			if _, err := x.Write(z.Text()); err != nil {
				return err
			}
		case html.CommentToken, html.DoctypeToken:
			x.beside(z.Text())
		case html.StartTagToken, html.EndTagToken, html.SelfClosingTagToken:
			name, more := z.TagName()
			s := between(name)
			switch string(name) {
			case "s": // struck through, and no space
				s = ""
			case "section", "article", "header", "footer", "aside", "nav", "main", "form", "fieldset", "legend", "label", "button", "caption", "thead", "tbody", "tfoot", "script", "style", "pre", "blockquote", "address", "figure", "figcaption", "summary", "details":
				s = "\n"
			}
			if s != "" {
				if _, err := x.WriteString(s); err != nil {
					return err
				}
			}
			for more {
				var value []byte
				_, value, more = z.TagAttr()
				x.beside(value)
			}
		}
	}
	return nil
}
