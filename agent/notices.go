package agent

import (
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/warderd/warder/agent/session"
	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/secret"
	"github.com/warderd/warder/platform/notify"
)

// notices tells people what is against the policy, in warn mode: once for each thing and hour, and what lasts once as long as it lasts.
// It belongs to the journal's goroutine alone.
type notices struct {
	now   func() time.Time
	seat  func() []uint32                                    // the users at the machine
	tell  func(message string, users []uint32) []notify.Told // on terminals
	show  func(session.Notice, []uint32) []notify.Told       // on desktops
	told  map[string]time.Time                               // when, by whom and what
	lasts map[string]time.Time                               // of which state that lasts, by whom and setting
	pace  map[uint32]*bucket
}

// bucket holds back what would be too much for one person: anybody can look up any number of names.
type bucket struct {
	left float64
	at   time.Time
}

const (
	// tellAgain: a person is told of a distinct thing once per hour.
	tellAgain = time.Hour
	// A person gets so many notices at once, and then one each while.
	bucketSize = 5
	bucketTime = time.Minute
	// maxTold bounds what is remembered, and maxNotice what a notice is about, in bytes.
	maxTold   = 1000
	maxNotice = 200
)

// What an event says where nobody was told.
const (
	toldNobody = "no session"
	toldBefore = "already told within the hour"
	toldEnough = "not told: there were too many notices"
)

func newNotices(o *Options, show func(session.Notice, []uint32) []notify.Told) *notices {
	return &notices{now: o.Now, seat: o.Seat, tell: o.Tell, show: show, told: map[string]time.Time{}, lasts: map[string]time.Time{}, pace: map[uint32]*bucket{}}
}

// about tells the people at the machine of one thing, and says whom it reached.
func (n *notices) about(setting enforce.Setting, subject, reason string) string {
	now := n.now()
	n.forget(now)
	return n.give(setting, subject, reason, func(uid uint32) bool {
		at, ok := n.told[key(uid, setting, subject)]
		return ok && now.Sub(at) < tellAgain
	}, func(uid uint32) { n.told[key(uid, setting, subject)] = now })
}

// lasting tells them of a finding that lasts since some time, and says whom it reached.
func (n *notices) lasting(f *enforce.Finding) string {
	now := n.now()
	n.forget(now)
	return n.give(f.Setting, "", f.Reason, func(uid uint32) bool {
		k := key(uid, f.Setting, "")
		at, ok := n.told[k]
		return n.lasts[k].Equal(f.Since) || ok && now.Sub(at) < tellAgain
	}, func(uid uint32) {
		k := key(uid, f.Setting, "")
		n.told[k], n.lasts[k] = now, f.Since
	})
}

func key(uid uint32, setting enforce.Setting, subject string) string {
	return fmt.Sprintf("%d %s %s", uid, setting, subject)
}

// give tells those of the people at the machine who were not told before.
func (n *notices) give(setting enforce.Setting, subject, reason string, before func(uid uint32) bool, reached func(uid uint32)) string {
	var users []uint32
	why := toldNobody
	for _, uid := range n.seat() {
		switch {
		case before(uid):
			why = toldBefore
		case !n.may(uid):
			why = toldEnough
		default:
			users = append(users, uid)
		}
	}
	if len(users) == 0 {
		return why
	}
	// What a device or a name is called comes from elsewhere.
	subject = clip(enforce.Plain(secret.Scrub(subject)), maxNotice)
	line := "this is"
	if subject != "" {
		line = subject + " is"
	}
	line = clip("Warder: "+line+" against your organization's policy: "+enforce.Plain(secret.Scrub(reason)), maxSubject)
	list := append(n.show(session.Notice{Setting: setting, Subject: subject}, users), n.tell(line, users)...)
	words := make([]string, len(list))
	for i, t := range list {
		words[i] = t.Where
		reached(t.UID)
		n.pace[t.UID].left--
	}
	if len(list) == 0 {
		return why
	}
	return strings.Join(words, ", ")
}

// may reports whether a person may get one more now.
func (n *notices) may(uid uint32) bool {
	now, b := n.now(), n.pace[uid]
	if b == nil || now.Before(b.at) {
		b = &bucket{bucketSize, now}
		n.pace[uid] = b
	}
	b.left = min(bucketSize, b.left+float64(now.Sub(b.at))/float64(bucketTime))
	b.at = now
	return b.left >= 1
}

// forget bounds what is remembered: what is older than an hour says nothing any more.
func (n *notices) forget(now time.Time) {
	if len(n.told) >= maxTold {
		maps.DeleteFunc(n.told, func(_ string, at time.Time) bool { return now.Sub(at) >= tellAgain || now.Before(at) })
	}
	if len(n.told) >= maxTold {
		n.told = map[string]time.Time{}
	}
	if len(n.lasts) >= maxTold {
		n.lasts = map[string]time.Time{}
	}
	if len(n.pace) >= maxTold {
		n.pace = map[uint32]*bucket{}
	}
}
