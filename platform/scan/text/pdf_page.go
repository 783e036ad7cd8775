package text

import (
	"math"
	"strings"

	"github.com/ledongthuc/pdf"
)

// matrix is one of PDF: x' = a x + c y + e, y' = b x + d y + f.
type matrix [6]float64

func (m matrix) times(n matrix) matrix {
	return matrix{m[0]*n[0] + m[1]*n[2], m[0]*n[1] + m[1]*n[3], m[2]*n[0] + m[3]*n[2], m[2]*n[1] + m[3]*n[3],
		m[4]*n[0] + m[5]*n[2] + n[4], m[4]*n[1] + m[5]*n[3] + n[5]}
}

func (m matrix) at(x, y float64) (float64, float64) {
	return m[0]*x + m[2]*y + m[4], m[1]*x + m[3]*y + m[5]
}

var unit = matrix{1, 0, 0, 1, 0, 0}

func matrixOf(args []pdf.Value) (m matrix, ok bool) {
	if len(args) != len(m) {
		return m, false
	}
	for i := range m {
		m[i] = args[i].Float64()
	}
	return m, true
}

// pen is where on a page text is written, and how.
type pen struct {
	page, text, line        matrix // text: where the next character is; line: where the line begins
	size, char, word, scale float64
	leading                 float64
	font                    *pdfFont
	endX, endY, height      float64 // where the last character has ended, on the page
	written                 bool
	inherited               []saved
	fonts                   map[string]*pdfFont
	resources               pdf.Value
}

type saved struct {
	page                             matrix
	size, char, word, scale, leading float64
	font                             *pdfFont
}

// content takes the text out of what a page is drawn with. What is on one line without a gap is one word, in however many pieces it was
// written.
func (p *pdfText) content(stream, resources pdf.Value, fonts map[string]*pdfFont, level int) {
	if stream.Kind() == pdf.Null || level > 8 {
		return
	}
	w := &pen{page: unit, text: unit, line: unit, scale: 1, fonts: fonts, resources: resources}
	pdf.Interpret(stream, func(stack *pdf.Stack, op string) {
		args := make([]pdf.Value, stack.Len())
		for i := len(args) - 1; i >= 0; i-- {
			args[i] = stack.Pop()
		}
		if p.x.err != nil {
			panic(errEnough) // there is no other way out
		}
		p.draw(w, op, args, level)
	})
}

// draw follows one instruction (ISO 32000, 8.4 and 9.4).
func (p *pdfText) draw(w *pen, op string, args []pdf.Value, level int) {
	number := func(i int) float64 {
		if i < len(args) {
			return args[i].Float64()
		}
		return 0
	}
	move := func(x, y float64) {
		w.line = matrix{1, 0, 0, 1, x, y}.times(w.line)
		w.text = w.line
	}
	switch op {
	case "q":
		if len(w.inherited) < 1000 {
			w.inherited = append(w.inherited, saved{w.page, w.size, w.char, w.word, w.scale, w.leading, w.font})
		}
	case "Q":
		if n := len(w.inherited); n > 0 {
			s := w.inherited[n-1]
			w.page, w.size, w.char, w.word, w.scale, w.leading, w.font = s.page, s.size, s.char, s.word, s.scale, s.leading, s.font
			w.inherited = w.inherited[:n-1]
		}
	case "cm":
		if m, ok := matrixOf(args); ok {
			w.page = m.times(w.page)
		}
	case "BI":
		p.inline = true
	case "BT":
		w.text, w.line = unit, unit
	case "Tc":
		w.char = number(0)
	case "Tw":
		w.word = number(0)
	case "Tz":
		w.scale = number(0) / 100
	case "TL":
		w.leading = number(0)
	case "Tf":
		if len(args) == 2 {
			w.font, w.size = w.fonts[args[0].Name()], number(1)
		}
	case "Td":
		move(number(0), number(1))
	case "TD":
		w.leading = -number(1)
		move(number(0), number(1))
	case "T*":
		move(0, -w.leading)
	case "Tm":
		if m, ok := matrixOf(args); ok {
			w.text, w.line = m, m
		}
	case "Tj":
		if len(args) == 1 {
			p.show(w, args[0].RawString())
		}
	case "'", "\"":
		move(0, -w.leading)
		if len(args) > 0 {
			p.show(w, args[len(args)-1].RawString())
		}
	case "TJ":
		if len(args) != 1 {
			return
		}
		for i := range args[0].Len() {
			if v := args[0].Index(i); v.Kind() == pdf.String {
				p.show(w, v.RawString())
			} else {
				w.text = matrix{1, 0, 0, 1, -v.Float64() / 1000 * w.size * w.scale, 0}.times(w.text)
			}
		}
	case "Do":
		if len(args) == 1 {
			p.form(w, w.resources.Key("XObject").Key(args[0].Name()), level)
		}
	}
}

// form takes the text out of a form that is drawn.
func (p *pdfText) form(w *pen, form pdf.Value, level int) {
	if form.Key("Subtype").Name() != "Form" {
		return
	}
	if p.drawn++; p.drawn > maxForms {
		p.x.unread(TooMany)
		return
	}
	fonts, resources := w.fonts, w.resources
	if within := form.Key("Resources"); within.Kind() == pdf.Dict {
		fonts, resources = p.fonts(within.Key("Font")), within
	}
	p.x.apart()
	p.content(form, resources, fonts, level+1)
	p.x.apart()
	w.written = false
}

// show writes a text, behind what its distance from the last one stands for.
func (p *pdfText) show(w *pen, raw string) {
	f := w.font
	if f == nil {
		f = &pdfFont{}
	}
	if f.unlettered {
		p.x.unread(Unlettered)
	}
	all := w.text.times(w.page)
	x, y := all.at(0, 0)
	// Which way the text goes on the page: a page may be turned.
	length, height := math.Hypot(all[0], all[1]), math.Hypot(all[2], all[3])*math.Abs(w.size)
	height = max(height, 0.01)
	if w.written && length > 0 {
		dx, dy := x-w.endX, y-w.endY
		along := (dx*all[0] + dy*all[1]) / length
		across := math.Abs(dy*all[0]-dx*all[1]) / length
		switch h := max(height, w.height); {
		case across > h/2 || along < -h:
			_, _ = p.x.Write([]byte("\n"))
		case along > h/5:
			_, _ = p.x.Write([]byte(" "))
		}
	}
	text := raw
	if f.encoding != nil {
		text = f.encoding.Decode(raw)
	}
	_, _ = p.x.Write([]byte(text))
	w.text = matrix{1, 0, 0, 1, f.advance(raw, w) * w.scale, 0}.times(w.text)
	w.endX, w.endY = w.text.times(w.page).at(0, 0)
	w.height, w.written = height, true
}

// pdfFont is how bytes become characters, and how wide they are.
type pdfFont struct {
	encoding pdf.TextEncoding
	double   bool // two bytes are a character
	// It says which pictures of characters there are, and not which characters.
	unlettered bool
	widths     map[int]float64
	usual      float64
}

// fonts are those of a dictionary.
func (p *pdfText) fonts(list pdf.Value) map[string]*pdfFont {
	out := map[string]*pdfFont{}
	for _, name := range list.Keys() {
		v := list.Key(name)
		font := pdf.Font{V: v}
		f := &pdfFont{encoding: font.Encoder(), widths: map[int]float64{}}
		if v.Key("Subtype").Name() == "Type0" {
			f.double, f.usual = true, 1000
			f.unlettered = v.Key("ToUnicode").Kind() == pdf.Null && strings.HasPrefix(v.Key("Encoding").Name(), "Identity")
			inner := v.Key("DescendantFonts").Index(0)
			if w := inner.Key("DW"); w.Kind() != pdf.Null {
				f.usual = w.Float64()
			}
			f.wide(inner.Key("W"))
		} else {
			first, list := font.FirstChar(), v.Key("Widths")
			for i := range min(list.Len(), 256) {
				f.widths[first+i] = list.Index(i).Float64()
			}
			f.usual = v.Key("FontDescriptor").Key("MissingWidth").Float64()
		}
		if out[name] = f; len(out) > 1000 {
			break
		}
	}
	return out
}

// wide reads the widths of a font with many characters: "first [w w w]" or "first last w".
func (f *pdfFont) wide(list pdf.Value) {
	for i := 0; i+1 < list.Len() && len(f.widths) < 1<<16; {
		first, second := int(list.Index(i).Int64()), list.Index(i+1)
		if second.Kind() == pdf.Array {
			for j := range min(second.Len(), 1<<16) {
				f.widths[first+j] = second.Index(j).Float64()
			}
			i += 2
			continue
		}
		for c := first; c <= min(int(second.Int64()), first+1<<16); c++ {
			f.widths[c] = list.Index(i + 2).Float64()
		}
		i += 3
	}
}

// advance is how far a text goes.
func (f *pdfFont) advance(raw string, w *pen) (sum float64) {
	step := 1
	if f.double {
		step = 2
	}
	for i := 0; i+step <= len(raw); i += step {
		code := int(raw[i])
		if f.double {
			code = code<<8 | int(raw[i+1])
		}
		width, known := f.widths[code]
		if !known {
			if width = f.usual; width == 0 {
				width = roughly(raw[i])
			}
		}
		if sum += width/1000*w.size + w.char; !f.double && raw[i] == ' ' {
			sum += w.word
		}
	}
	return sum
}

// roughly is how wide a character is in fonts that every reader has, and of which a document says nothing.
func roughly(c byte) float64 {
	switch {
	case c == ' ', c == '.', c == ',', c == ':', c == 'i', c == 'l', c == 'j', c == '/', c == '!', c == 'I':
		return 278
	case c >= 'A' && c <= 'Z':
		return 690
	case c == '-', c == 'r', c == 't', c == 'f', c == '(', c == ')':
		return 333
	}
	return 550
}
