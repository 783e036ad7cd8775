package service

// Ending is why the service manager ends this program.
type Ending int

const (
	Stopped    Ending = iota // by somebody; also when it cannot be told
	Restarting               // it is started again at once
	Shutdown                 // with the machine
)
