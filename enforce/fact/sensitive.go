package fact

// Scanning is the program that looks for sensitive data.
type Scanning struct {
	// Engine is what it looks with, for people; "": it has not been asked for anything since the patterns changed.
	Engine string `json:"engine,omitempty"`
	// Why is why it cannot look; "": it can, as far as is known.
	Why string `json:"why,omitempty"`
}

// Outgoing are the places from which files leave this machine, and what is known of the files in them.
type Outgoing struct {
	Places []OutPlace `json:"places,omitempty"`
	// Held are files that are known to have sensitive data and are still there, because they cannot be taken away.
	Held int `json:"held,omitempty"`
	// HeldWhy says why the first of them is.
	HeldWhy string `json:"held_why,omitempty"`
	// Late are files that could not be looked into in time and were left, since the agent was started.
	Late int `json:"late,omitempty"`
	// Behind are files that were written and wait to be looked into.
	Behind int `json:"behind,omitempty"`
	// Stale says that some of them have waited for longer than a minute.
	Stale bool `json:"stale,omitempty"`
}

// OutPlace is one such place: a file system on an external disk, or a folder that a program copies to the internet.
type OutPlace struct {
	Name string `json:"name"`          // for people: the disk, or the program and its user
	App  string `json:"app,omitempty"` // the program's ID in the list of sync clients; "" for a disk
	// Watched says that what is written there is noticed, as the kernel has it; Holds, that who opens a file waits until it has been
	// looked into.
	Watched bool `json:"watched"`
	Holds   bool `json:"holds,omitempty"`
	// Why is why it is not watched, or not all of it.
	Why string `json:"why,omitempty"`
}

// PrintJobs is how it is looked into what is printed.
type PrintJobs struct {
	// Spooler says that there is a print spooler whose jobs could be looked into.
	Spooler bool `json:"spooler,omitempty"`
	// Watched says that a document is noticed when it comes, as the kernel has it; Holds, that who opens one waits until it has been
	// looked into.
	Watched bool `json:"watched,omitempty"`
	Holds   bool `json:"holds,omitempty"`
	// Why is why it is not watched.
	Why string `json:"why,omitempty"`
	// Late are documents that could not be looked into in time, and LeftOut events that were too many to tell, since the agent was
	// started.
	Late    int `json:"late,omitempty"`
	LeftOut int `json:"left_out,omitempty"`
}

// Where sensitive data was found.
const (
	InFile      = "file"
	InClipboard = "clipboard"
	InPrintJob  = "print job"
)

// Sensitive is a document in which sensitive data was looked for. It has nothing of what the document says.
type Sensitive struct {
	Where string           `json:"where"` // InFile, InClipboard, InPrintJob
	Place string           `json:"place"` // the disk, the program whose folder it is, the queue
	Kind  string           `json:"kind,omitempty"`
	Bytes int64            `json:"bytes,omitempty"`
	Found []SensitiveFound `json:"found"`
	// Late says that it could not be looked into in time.
	Late bool `json:"late,omitempty"`
	// Unread says why parts of it were not read (Unreads).
	Unread []string `json:"unread,omitempty"`
}

// Why parts of a document are not read, in words for people.
const (
	UnreadEncrypted  = "encrypted"
	UnreadTooDeep    = "archives inside archives, more than three deep"
	UnreadTooLarge   = "larger than what is looked at"
	UnreadTooMany    = "more files than are looked at"
	UnreadBroken     = "damaged, or not what it seems"
	UnreadForeign    = "a kind of archive, or of packing, that is not opened"
	UnreadUnlettered = "text in a font that does not say what its characters are"
)

// Unreads are all of these. There are no others: what a document has in it is in none.
var Unreads = []string{UnreadEncrypted, UnreadTooDeep, UnreadTooLarge, UnreadTooMany, UnreadBroken, UnreadForeign, UnreadUnlettered}

// Noteworthy reports whether there is something to tell of: data was found, or might be there.
func (x *Sensitive) Noteworthy() bool { return len(x.Found) > 0 || x.Late || len(x.Unread) > 0 }

// SensitiveFound is one kind of sensitive data in a document.
type SensitiveFound struct {
	Pattern string `json:"pattern"` // its name, or its place in the policy
	Setting string `json:"setting"`
	Count   int    `json:"count"`
	Mark    string `json:"mark"` // of the first match: a keyed hash, which tells whether two events are about the same
}

// SyncFolder is where a sync client keeps what it copies, below a user's home directory.
type SyncFolder struct {
	// File is the client's own configuration; "": the folder has its usual place and no other is known.
	File string
	// Form says how that is read: FolderINI, FolderJSON or FolderXML; Key is the name of the value there.
	Form, Key string
	// Usual is the folder where the file says nothing about it; "": then there is none.
	Usual string
}

// How the configurations of sync clients are read.
const (
	FolderINI  = "ini"  // KEY = VALUE, or N\Folders\N\KEY=VALUE; quotes around the value are left out
	FolderJSON = "json" // the value of KEY in any object
	FolderXML  = "xml"  // the attribute KEY of elements that are called folder
)
